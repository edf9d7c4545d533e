"""Images that can be asked for by their rows, in memory or not."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from data.order import Order, Places


class ImageRows(Protocol):
    """Images uint8 [N, C, H, W]: a tensor of them, or what decodes them when they are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """N, C, H and W."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return some images, uint8 [B, C, H, W]."""
        ...


class TakenImages(ImageRows, Protocol):
    """Images that are not in memory side by side: what reads them ahead asks for them so."""

    def take(self, rows: Places, /) -> Tensor:
        """Return images by their rows, uint8 [B, C, H, W]."""
        ...

    def expect(self, order: Order, step: int, start: int, stop: int | None, /) -> None:
        """Get ready what rows [start, stop) of a step's batch need, where that takes time."""
        ...
