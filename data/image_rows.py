"""Images that can be asked for by their rows, in memory or not."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


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
