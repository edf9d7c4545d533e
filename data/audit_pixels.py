"""How far apart two images' pixels are, once one is moved over the other and its brightness fitted.

The residual is blurred before it is measured: what a JPEG loses is noise that averages out over
neighbouring pixels, a difference between two things that were photographed does not.

Shapes: B images, K images each is compared with, C channels, H height, W width, P pairs, D values
of the part of an image that is compared.
"""

import torch
from torch import Tensor

LARGEST_SHIFT = 2
"""Pixels; 1 where a side is below `_SMALL_SIDE`, which a border of 2 would leave too little of."""
GAINS = (0.4, 2.5)
LEAST_CONTRAST = 4.0
"""Standard deviation in grey levels below which an image is flat: any other flat one would fit."""
_SMALL_SIDE = 16
_LEAST_ALIKE = 0.6
"""Correlation below which brightness is not fitted: blur would not make a copy of such a pair."""
_LEAST_INSIDE = 0.1
_TINY = 1e-3


def distances(images: Tensor, others: Tensor) -> Tensor:
    """Distance of each image to each of its others, float32 [B, K], in [0, 1].

    0 says that one is the other, shifted and with its brightness changed linearly and clipped; 1
    that they have nothing in common. It is the root mean square of the blurred residual in units
    of the image's standard deviation, at the shift of the highest correlation.

    Args:
        images: uint8 [B, C, H, W]; others: uint8 [B, K, C, H, W]; H and W of 8 or more.
    """
    images, others = images.float(), others.float()
    batch, several, *shape = others.shape
    margin = LARGEST_SHIFT if min(shape[1:]) >= _SMALL_SIDE else 1
    correlation, shift = _align(images.mean(1), others.mean(2), margin)
    far = (1 - correlation.clamp(0, 1).square()).sqrt()

    rows = ((correlation >= _LEAST_ALIKE).flatten()).nonzero()[:, 0]
    if not len(rows):
        return far
    inner = _windows(images, margin)[margin * (2 * margin + 1) + margin]
    moved = torch.empty(len(rows), *inner.shape[1:])
    flat, at = others.flatten(0, 1), shift.flatten()[rows]
    for number, window in enumerate(_windows(flat, margin)):
        here = at == number
        moved[here] = window[rows[here]]
    still = inner[torch.div(rows, several, rounding_mode="floor")]
    near = torch.minimum(_residual(still, moved), _residual(moved, still))
    found = far.flatten()
    found[rows] = near.clamp(max=1)
    return found.view(batch, several)


def _windows(images: Tensor, margin: int) -> list[Tensor]:
    """The inner part of images [..., H, W], moved by every shift, row by row; views."""
    height, width = images.shape[-2] - 2 * margin, images.shape[-1] - 2 * margin
    steps = range(2 * margin + 1)
    return [images[..., y : y + height, x : x + width] for y in steps for x in steps]


def _align(images: Tensor, others: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """The highest correlation over shifts of images [B, H, W] and others [B, K, H, W], [B, K], and
    the number of that shift."""
    inner = _windows(images, margin)[margin * (2 * margin + 1) + margin].flatten(1)
    inner = inner - inner.mean(1, keepdim=True)
    length = inner.norm(dim=1).clamp_min(_TINY)[:, None]
    found = []
    for window in _windows(others, margin):
        moved = window.flatten(2)
        # What is added to the others adds nothing here, as `inner` sums to zero.
        product = torch.bmm(moved, inner[:, :, None])[:, :, 0]
        spread = moved.var(2, correction=0).mul(moved.shape[2]).sqrt().clamp_min(_TINY)
        found.append(product / (spread * length))
    best = torch.stack(found).max(0)
    return best.values, best.indices


def _residual(one: Tensor, other: Tensor) -> Tensor:
    """What is left of `other` when `one`, its brightness fitted and clipped, is taken away.

    Both are [P, C, H, W], what is left is [P].
    """
    shape = other.shape
    one, other = one.flatten(1), other.flatten(1)
    # Where either is clipped it says nothing of the brightness; only if that is nearly everywhere
    # (black on white) is the fit taken over all pixels. Both are tried, and judged on all pixels.
    inside = (one > 1) & (one < 254) & (other > 1) & (other < 254)
    enough = inside.float().mean(1, keepdim=True) >= _LEAST_INSIDE
    everywhere = torch.ones_like(one)
    contrast = other.std(1, correction=0)
    least = torch.full_like(contrast, torch.inf)
    for weights in (torch.where(enough, inside.float(), everywhere), everywhere):
        gain, offset = _fit(one, other, weights)
        left = other - (gain * one + offset).clamp(0, 255)
        blurred = _blur(left.view(shape)).flatten(1)
        least = torch.minimum(least, blurred.square().mean(1).sqrt())
    flat = torch.minimum(contrast, one.std(1, correction=0)) < LEAST_CONTRAST
    return torch.where(flat, 1.0, least / contrast.clamp_min(_TINY))


def _fit(one: Tensor, other: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset, [P, 1] each, of [P, D] by least squares; the gain kept within `GAINS`."""
    total = weights.sum(1, keepdim=True)
    mean = (one * weights).sum(1, keepdim=True) / total
    other_mean = (other * weights).sum(1, keepdim=True) / total
    centred = (one - mean) * weights
    square = centred.square().sum(1, keepdim=True).clamp_min(_TINY)
    gain = ((centred * (other - other_mean)).sum(1, keepdim=True) / square).clamp(*GAINS)
    return gain, other_mean - gain * mean


def _blur(images: Tensor) -> Tensor:
    """Means over 3 x 3 pixels, without the border."""
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
