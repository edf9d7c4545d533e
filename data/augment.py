"""Random changes of whole batches on their device: geometry, colour, blur, solarizing, erasing.

Random numbers are drawn for all G samples of a global batch and sliced to the B rows at hand, so
that the number of ranks and micro-batches changes nothing.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses

import torch
from pydantic import ConfigDict
from torch import Tensor

from data.augment_blur import BlurConfig, BlurParams, blur, draw_blur
from data.augment_colour import (
    ColourConfig,
    ColourParams,
    change_colours,
    draw_colour,
    solarize,
)
from data.augment_erasing import ErasingConfig, ErasingParams, cut_out, draw_erasing, erase
from data.augment_geometry import (
    GeometryConfig,
    GeometryParams,
    change_geometry,
    draw_geometry,
)


class AugmentConfig(ErasingConfig, BlurConfig, ColourConfig, GeometryConfig):
    """How strongly images are changed. A strength of 0, or (1, 1), turns a change off."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclasses.dataclass(frozen=True)
class AugmentParams(ErasingParams, BlurParams, ColourParams, GeometryParams):
    """What happens to each sample; every tensor has the samples on its first axis."""


class Augment:
    """Applies an `AugmentConfig` to batches."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    @property
    def is_off(self) -> bool:
        """Whether it leaves every image alone."""
        config = self.config
        return not (
            config.crops
            or config.turns
            or config.moves
            or config.maps_colours
            or config.blur > 0
            or config.solarize > 0
            or config.erasing > 0
            or config.cutout > 0
        )

    def draw(self, n: int, generator: torch.Generator) -> AugmentParams:
        """Draw the parameters of `n` samples on the generator's device.

        A change takes the same numbers from the generator whether it is on or off.
        """
        config, device = self.config, generator.device
        # The second call came later: so what the first one gives has stayed what it was.
        first = torch.rand(n, 12, generator=generator, device=device)
        second = torch.rand(n, 15, generator=generator, device=device)
        geometry = draw_geometry(config, torch.cat([first[:, :5], second[:, :6]], 1))
        colour = draw_colour(config, torch.cat([first[:, 5:7], second[:, 6:11]], 1))
        blurring = draw_blur(config, second[:, 11:13])
        erasing = draw_erasing(config, torch.cat([first[:, 7:12], second[:, 13:15]], 1))
        return AugmentParams(**vars(geometry), **vars(colour), **vars(blurring), **vars(erasing))

    def apply(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Change float images [B, C, H, W] in [0, 1]; the result has their shape and range.

        Differentiable in the images. Where everything is off, the images themselves are returned.

        Raises:
            DataError: a change of colours is on, and the images have neither 1 nor 3 channels.
        """
        config = self.config
        images = change_geometry(images, params, config)
        if config.maps_colours:
            images = change_colours(images, params, config)
        if config.blur > 0:
            images = blur(images, params, config)
        if config.solarize > 0:
            images = solarize(images, params, config.solarize_threshold)
        if config.erasing > 0:
            images = erase(images, params, config.erasing_fill)
        if config.cutout > 0:
            images = cut_out(images, params, config.cutout)
        return images
