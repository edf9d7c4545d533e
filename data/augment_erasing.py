"""Rectangles of whole pixels: random erasing and cutout, and the boxes that others paste.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from data.sample_params import SampleParams, change_some

_SMALLEST_ERASED_AREA = 0.02
_MOST_ERASED_ASPECT = 3.3


class ErasingConfig(BaseModel):
    """What is erased of an image."""

    erasing: float = Field(
        0.0, ge=0, le=1, description="chance that one rectangle of the image is erased"
    )
    erasing_area: float = Field(
        0.25,
        ge=_SMALLEST_ERASED_AREA,
        le=1,
        description="largest erased share of the image's area; the smallest is 0.02",
    )
    erasing_fill: Literal["zero", "mean"] = Field(
        "zero", description="what an erased rectangle is filled with: black, or the image's mean"
    )
    cutout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="side of a black square that every image gets, as a fraction of its shorter "
        "side; the square's middle is any pixel, what lies outside is cut off (DeVries and Taylor "
        "2017)",
    )


@dataclasses.dataclass(frozen=True)
class ErasingParams(SampleParams):
    """What is erased of each sample."""

    erase: Tensor
    """bool [G]."""
    erase_size: Tensor
    """Height and width of the rectangle as fractions of the image's, [G, 2]."""
    erase_place: Tensor
    """Where it lies between the top (left) edge, 0, and the bottom (right) edge, 1, [G, 2]."""
    cutout_place: Tensor
    """The middle of the square between the top (left) pixel, 0, and the last, 1, [G, 2]."""


def draw_erasing(config: ErasingConfig, uniform: Tensor) -> ErasingParams:
    """Make parameters of uniform numbers in [0, 1), [G, 7]."""
    area = _SMALLEST_ERASED_AREA + uniform[:, 1] * (config.erasing_area - _SMALLEST_ERASED_AREA)
    root_aspect = _MOST_ERASED_ASPECT ** ((2 * uniform[:, 2] - 1) / 2)
    root_area = area.sqrt()
    return ErasingParams(
        erase=uniform[:, 0] < config.erasing,
        erase_size=torch.stack([root_area * root_aspect, root_area / root_aspect], 1),
        erase_place=uniform[:, 3:5],
        cutout_place=uniform[:, 5:7],
    )


def erase(images: Tensor, params: ErasingParams, fill: str) -> Tensor:
    """Fill a rectangle of whole pixels, at least one and at most the image."""
    height, width = images.shape[2:]
    side = torch.tensor([height, width], device=images.device)

    def erased(some: Tensor, rows: Tensor) -> Tensor:
        size = (params.erase_size[rows] * side).round().long().clamp(min=1).minimum(side)
        first = (params.erase_place[rows] * (side - size + 1)).long()
        inside = boxes(first, first + size, height, width)
        if fill == "zero":
            return some * (~inside).to(some.dtype)
        return torch.where(inside, some.mean(dim=(1, 2, 3), keepdim=True), some)

    return change_some(images, params.erase, erased)


def cut_out(images: Tensor, params: ErasingParams, fraction: float) -> Tensor:
    """Make a square black that may reach beyond the image."""
    height, width = images.shape[2:]
    length = max(1, round(fraction * min(height, width)))
    middle = (params.cutout_place * torch.tensor([height, width], device=images.device)).long()
    first = middle - length // 2
    return images * (~boxes(first, first + length, height, width)).to(images.dtype)


def boxes(first: Tensor, last: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie in boxes, bool [B, 1, H, W].

    Args:
        first: topmost row and leftmost column, int64 [B, 2].
        last: the row below and the column right of it.
    """
    rows, columns = (torch.arange(n, device=first.device) for n in (height, width))
    in_rows = (rows >= first[:, :1]) & (rows < last[:, :1])
    in_columns = (columns >= first[:, 1:]) & (columns < last[:, 1:])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
