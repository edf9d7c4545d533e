"""What happens to each sample of a batch: tensors whose first axis is the samples.

Shapes: G global batch, B rows at hand.
"""

import dataclasses
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class SampleParams:
    """Base of dataclasses whose fields all are tensors [G, ...]."""

    def rows(self, start: int, stop: int) -> Self:
        """The parameters of samples [start, stop)."""
        return self.map(lambda values: values[start:stop])

    def at(self, samples: Tensor, device: torch.device) -> Self:
        """The parameters of some samples, int64 [B], on a device."""
        return self.map(lambda values: values[samples].to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""
        fields = dataclasses.fields(self)
        return type(self)(**{field.name: change(getattr(self, field.name)) for field in fields})


def change_some(images: Tensor, hit: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return images [B, C, H, W] of which some, bool [B], are changed, and the others are copied.

    Args:
        change: takes these images and their rows, int64, and returns them changed.
    """
    rows = hit.nonzero()[:, 0]
    return images.index_copy(0, rows, change(images.index_select(0, rows), rows))


def per_sample(values: Tensor, images: Tensor) -> Tensor:
    """Return values [B] in the type and for the axes of images [B, C, H, W]."""
    return values.to(images.dtype).view(-1, 1, 1, 1)
