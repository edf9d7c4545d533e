"""Gaussian blur of some images of a batch, each by its own width.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
import math

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from data.ranges import PositiveRange
from data.sample_params import SampleParams, change_some

_TRUNCATED_AT = 3


class BlurConfig(BaseModel):
    """How often images are blurred, and how much."""

    blur: float = Field(0.0, ge=0, le=1, description="chance that an image is blurred")
    blur_sigma: PositiveRange = Field(
        (0.1, 2.0),
        description="smallest and largest standard deviation of the Gaussian, in pixels; the "
        "image's edge goes on outside",
    )


@dataclasses.dataclass(frozen=True)
class BlurParams(SampleParams):
    """How each sample is blurred."""

    blur: Tensor
    """bool [G]."""
    sigma: Tensor
    """Standard deviation in pixels, [G]."""


def draw_blur(config: BlurConfig, uniform: Tensor) -> BlurParams:
    """Make parameters of uniform numbers in [0, 1), [G, 2]."""
    low, high = config.blur_sigma
    return BlurParams(blur=uniform[:, 0] < config.blur, sigma=low + uniform[:, 1] * (high - low))


def blur(images: Tensor, params: BlurParams, config: BlurConfig) -> Tensor:
    """Blur those of the images [B, C, H, W] that are to be."""
    radius = math.ceil(_TRUNCATED_AT * config.blur_sigma[1])

    def blurred(some: Tensor, rows: Tensor) -> Tensor:
        _, channels, height, width = some.shape
        sigma = params.sigma[rows]
        across = _smoothing(sigma, radius, width).to(some.dtype)
        down = across if height == width else _smoothing(sigma, radius, height).to(some.dtype)
        smooth = torch.bmm(some.flatten(1, 2), across.mT).view(-1, height, width)
        return torch.bmm(down.repeat_interleave(channels, 0), smooth).view(some.shape)

    return change_some(images, params.blur, blurred)


def _smoothing(sigma: Tensor, radius: int, side: int) -> Tensor:
    """Return matrices [B, side, side] whose rows are the Gaussian about each place.

    What a row has outside the image is added to the image's edge.
    """
    reach = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = (-(reach**2) / (2 * sigma[:, None] ** 2)).exp()
    weights = weights / weights.sum(1, keepdim=True)
    places = torch.arange(side, device=sigma.device)[:, None]
    seen = (places + reach).clamp(0, side - 1)
    matrix = weights.new_zeros(len(sigma), side, side)
    index = seen.expand(len(sigma), -1, -1)
    return matrix.scatter_add_(2, index, weights[:, None].expand(-1, side, -1))
