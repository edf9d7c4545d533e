"""Colours as lightness and two opponent axes: CIE L*a*b* of sRGB, white at D65.

IEC 61966-2-1 for sRGB; CIE 15 for L*a*b*. L is 0 to 100; a (green to red) and b (blue to yellow)
lie within about -108 to 99.

Shapes: B rows, H height, W width.
"""

import torch
from torch import Tensor

_XYZ_OF_RGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)
_LINEAR_BELOW = (6 / 29) ** 3
_SLOPE = (29 / 6) ** 2 / 3
_OFFSET = 4 / 29


def lab_of(rgb: Tensor) -> Tensor:
    """Return L, a and b of sRGB images [B, 3, H, W] in [0, 1]."""
    white = rgb.new_tensor(_WHITE).view(3, 1, 1)
    ratios = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_XYZ_OF_RGB), _linear(rgb)) / white
    roots = torch.where(
        ratios > _LINEAR_BELOW,
        ratios.clamp_min(_LINEAR_BELOW).pow(1 / 3),
        _SLOPE * ratios + _OFFSET,
    )
    x, y, z = roots.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def rgb_of(lab: Tensor) -> Tensor:
    """Return sRGB images [B, 3, H, W] of L, a and b; colours that sRGB has not are clipped."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    roots = torch.stack([y + a / 500, y, y - b / 200], 1)
    ratios = torch.where(roots > 6 / 29, roots.pow(3), (roots - _OFFSET) / _SLOPE)
    white = lab.new_tensor(_WHITE).view(3, 1, 1)
    inverse = torch.linalg.inv(torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)).to(lab)
    return _encoded(torch.einsum("ij,bjhw->bihw", inverse, ratios * white).clamp(0, 1))


def grey_of(rgb: Tensor) -> Tensor:
    """Return the greys of the same lightness, three times, of sRGB images [B, 3, H, W]."""
    luminance = torch.einsum("j,bjhw->bhw", rgb.new_tensor(_XYZ_OF_RGB[1]), _linear(rgb))
    return _encoded(luminance.clamp(0, 1))[:, None].expand(-1, 3, -1, -1)


def _linear(rgb: Tensor) -> Tensor:
    return torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).pow(2.4), rgb / 12.92)


def _encoded(linear: Tensor) -> Tensor:
    curved = 1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear)
