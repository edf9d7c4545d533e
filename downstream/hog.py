"""Histograms of oriented gradients: what images were described by before features were learnt.

Dalal & Triggs 2005, "Histograms of Oriented Gradients for Human Detection".

Shapes: N images, C channels, H height, W width; y by x cells of S x S pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ORIENTATIONS = 9
_CELLS_A_SIDE = 8
_BLOCK = 2
_CLIPPED = 0.2
_EPSILON = 1e-2
_AT_ONCE = 1000


def hog(images: Tensor) -> Tensor:
    """Return descriptors float32 [N, F] of images uint8 [N, C, H, W].

    Cells are as large as give about eight along the shorter side; each pixel votes with the length
    of its gradient, that of the channel where it is longest, for the two orientations next to its
    own, of nine in half a turn. Blocks of 2 x 2 cells, one at every cell, are normalized to unit
    length, clipped at 0.2 and normalized again. F = (y - 1) (x - 1) 4 x 9.
    """
    size = cell_size(*images.shape[2:])
    return torch.cat([_described(part.float(), size) for part in images.split(_AT_ONCE)])


def cell_size(height: int, width: int) -> int:
    """Return S, so that there are two cells or more along each side of 2 pixels or more."""
    return max(1, math.ceil(min(height, width) / _CELLS_A_SIDE))


def _described(images: Tensor, size: int) -> Tensor:
    votes = F.avg_pool2d(_votes(images), size)  # what is left of a cell at the edge has no vote
    blocks = F.unfold(votes, _BLOCK)  # [N, 9 * 4, blocks]
    for ceiling in (_CLIPPED, 1.0):
        length = blocks.square().sum(dim=1, keepdim=True).add(_EPSILON**2).sqrt()
        blocks = (blocks / length).clamp_max(ceiling)
    return blocks.flatten(1)


def _votes(images: Tensor) -> Tensor:
    """Each pixel's votes for the orientations, [N, 9, H, W]."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    lengths, strongest = torch.hypot(across, down).max(dim=1, keepdim=True)
    angle = torch.atan2(down.gather(1, strongest), across.gather(1, strongest))
    place = angle / math.pi * ORIENTATIONS % ORIENTATIONS
    bins = torch.arange(ORIENTATIONS, device=images.device).view(1, -1, 1, 1)
    away = (place - bins).abs()
    away = torch.minimum(away, ORIENTATIONS - away)
    return lengths * (1 - away).clamp_min(0)
