"""Which images may be copies of one another: neighbours by the magnitudes of low frequencies.

Moving an image leaves the magnitudes of its Fourier transform nearly as they were, a brighter one
has them in the same proportions, and what a JPEG loses lies above the frequencies that are kept.
So a copy's row is among the nearest whichever of these happened to it, where a plain comparison of
pixels finds many other images before one that was shifted.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_FREQUENCIES = 8
"""Cycles along a side, below this many are kept."""
_BLOCK = 500
_SMALLEST_NORM = 1e-6


def describe(images: Tensor) -> Tensor:
    """Descriptors of images, float32 [N, D] of norm 1 and mean 0 (all 0 for a flat image).

    Args:
        images: uint8 [N, C, H, W], H and W of 4 or more.
    """
    parts = [_describe(part) for part in images.split(_BLOCK)]
    return torch.cat(parts)


def nearest(
    wanted: Tensor,
    among: Tensor,
    count: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Rows of `among` [N, D] nearest to each of `wanted` [M, D], int64 [M, K], nearest first.

    All are compared, block by block, so that the [M, N] similarities are never held whole.

    Args:
        count: how many are wanted; K is this, or N where that is less.
        on_rows: called with how many rows were done, to show progress.
    """
    found = []
    for block in wanted.split(_BLOCK):
        found.append((block @ among.T).topk(min(count, len(among)), dim=1).indices)
        on_rows(len(block))
    return torch.cat(found)


def _describe(images: Tensor) -> Tensor:
    grey = images.float().mean(1, keepdim=True)
    grey = F.avg_pool2d(grey, 3, stride=1, padding=1)
    grey = grey - grey.mean((2, 3), keepdim=True)
    height, width = grey.shape[2:]
    high, wide = min(_FREQUENCIES, (height + 1) // 2), min(_FREQUENCIES, width // 2)
    # Of a real image half of the columns say all; rows hold negative frequencies at their end.
    spectrum = torch.fft.rfft2(grey)[..., :wide].abs()
    spectrum = torch.cat([spectrum[:, :, :high], spectrum[:, :, height - high + 1 :]], dim=2)
    # The square root keeps the lowest frequencies from drowning the others.
    rows = spectrum.sqrt().flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
