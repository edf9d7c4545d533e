"""Random changes of the colours of batches: one affine map of colours per image, and solarizing.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
import math

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from data.errors import DataError
from data.sample_params import SampleParams, change_some, per_sample

_LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = torch.tensor(
    [_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64
)
_QUARTER_TURN = torch.tensor([[0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""Of the plane of I and Q, from red over yellow to green, as hue is counted."""


class ColourConfig(BaseModel):
    """How colours change: contrast, brightness, saturation, hue, grey, clipping; solarizing."""

    brightness: float = Field(
        0.0, ge=0, le=1, description="intensities are multiplied by a factor within 1 ± this"
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=1,
        description="differences from the image's mean are multiplied by a factor within 1 ± this",
    )
    saturation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="differences from each pixel's grey are multiplied by a factor within 1 ± this",
    )
    hue: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="farthest turn of the hue, either way, as a fraction of the whole circle, at "
        "constant luma (a rotation in YIQ)",
    )
    colour_chance: float = Field(
        1.0, ge=0, le=1, description="chance that these four change an image at all"
    )
    grey: float = Field(0.0, ge=0, le=1, description="chance that an image loses its colours")
    solarize: float = Field(
        0.0, ge=0, le=1, description="chance that intensities from a threshold on are inverted"
    )
    solarize_threshold: float = Field(0.5, ge=0, le=1, description="that threshold")

    @property
    def maps_channels(self) -> bool:
        """Whether a channel's new values depend on the other channels'."""
        return self.saturation > 0 or self.hue > 0 or self.grey > 0

    @property
    def maps_colours(self) -> bool:
        """Whether anything but solarizing is on."""
        return self.brightness > 0 or self.contrast > 0 or self.maps_channels


@dataclasses.dataclass(frozen=True)
class ColourParams(SampleParams):
    """How each sample's colours change."""

    brightness: Tensor
    """Factor, [G]."""
    contrast: Tensor
    """Factor, [G]."""
    saturation: Tensor
    """Factor, 0 where the image becomes grey, [G]."""
    hue: Tensor
    """Turn from red over yellow to green, in radians, [G]."""
    solarize: Tensor
    """bool [G]."""


def draw_colour(config: ColourConfig, uniform: Tensor) -> ColourParams:
    """Make parameters of uniform numbers in [0, 1), [G, 7]."""
    hit = uniform[:, 4] < config.colour_chance
    signed = (2 * uniform - 1) * hit[:, None]
    return ColourParams(
        brightness=1 + signed[:, 0] * config.brightness,
        contrast=1 + signed[:, 1] * config.contrast,
        saturation=(1 + signed[:, 2] * config.saturation) * (uniform[:, 5] >= config.grey),
        hue=signed[:, 3] * (2 * math.pi * config.hue),
        solarize=uniform[:, 6] < config.solarize,
    )


def change_colours(images: Tensor, params: ColourParams, config: ColourConfig) -> Tensor:
    """Return images [B, C, H, W] in other colours, clipped to [0, 1] once.

    Contrast, about the mean of all the image's values, comes first; the others could stand in any
    order. Images of one channel have no saturation and no hue.

    Raises:
        DataError: images have channels that are neither grey nor colours.
    """
    channels = images.shape[1]
    if config.maps_channels and channels not in (1, 3):
        raise DataError(
            f"augment: saturation, hue and grey are for images of 1 or 3 channels, found "
            f"{channels}; set them to 0"
        )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    brightness = per_sample(params.brightness, images)
    contrast = per_sample(params.contrast, images)
    offset, factor = (1 - contrast) * brightness * mean, contrast * brightness
    if config.maps_channels and channels == 3:
        # It leaves greys alone, so the offset, which is one, may be added behind it.
        matrix = _channel_map(params).to(images.dtype) * factor[:, 0]
        mixed = torch.baddbmm(offset[:, 0], matrix, images.flatten(2))
        return mixed.view(images.shape).clamp(0, 1)
    return torch.addcmul(offset, images, factor).clamp(0, 1)


def _channel_map(params: ColourParams) -> Tensor:
    """Return [B, 3, 3], which turns and scales the plane of I and Q and leaves luma alone."""
    back = _RGB_TO_YIQ.inverse()
    to_grey = back[:, :1] @ _RGB_TO_YIQ[:1]
    chroma = torch.eye(3, dtype=torch.float64) - to_grey
    turned = back @ _QUARTER_TURN @ _RGB_TO_YIQ
    parts = torch.stack([to_grey, chroma, turned]).to(params.hue)
    shares = torch.stack(
        [
            torch.ones_like(params.hue),
            params.saturation * params.hue.cos(),
            params.saturation * params.hue.sin(),
        ],
        dim=1,
    )
    return torch.einsum("bp,pij->bij", shares, parts)


def solarize(images: Tensor, params: ColourParams, threshold: float) -> Tensor:
    """Invert the intensities from the threshold on in the images that are to be."""

    def inverted(some: Tensor, rows: Tensor) -> Tensor:
        return torch.where(some >= threshold, 1 - some, some)

    return change_some(images, params.solarize, inverted)
