"""Mixing labelled images in pairs: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Row i of a global batch is mixed with its neighbour, row i + 1 of an even i and row i - 1 of an odd
one: as batches are in random order, that is any other image. A last row without a neighbour is
left alone. Parts of a global batch have to hold whole pairs.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
from typing import NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import betaincinv
from torch import Tensor

from data.augment_erasing import boxes
from data.errors import DataError
from data.sample_params import SampleParams, per_sample


class MixingConfig(BaseModel):
    """How labelled images are mixed; with both ways on, each image is mixed in one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixup: float = Field(
        0.0,
        ge=0,
        description="images are averaged with shares drawn from Beta(this, this); 0: not",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="a rectangle is pasted, whose area before what lies outside is cut off is "
        "drawn from Beta(this, this); 0: not",
    )
    chance: float = Field(1.0, ge=0, le=1, description="chance that an image is mixed at all")

    @property
    def is_off(self) -> bool:
        """Whether it leaves every image alone."""
        return self.chance == 0 or self.mixup == 0 == self.cutmix


@dataclasses.dataclass(frozen=True)
class MixingParams(SampleParams):
    """How each sample is mixed with its neighbour."""

    own: Tensor
    """The image's own share, before a rectangle is cut off at the edges, [G]."""
    paste: Tensor
    """Whether the neighbour's share is a rectangle, bool [G]."""
    middle: Tensor
    """The rectangle's middle between the top (left) pixel, 0, and the last, 1, [G, 2]."""

    def rows(self, start: int, stop: int) -> Self:
        """The parameters of samples [start, stop).

        Raises:
            DataError: a pair would be cut apart.
        """
        if start % 2 or (stop % 2 and stop < len(self.own)):
            raise DataError(
                f"mixing: images are mixed in pairs, and rows {start} to {stop} of a batch of "
                f"{len(self.own)} cut one apart; take a batch size whose parts for each process "
                "and accumulation step are even"
            )
        return super().rows(start, stop)


class Mixed(NamedTuple):
    """Mixed images, and what their losses are made of.

    Attributes:
        images: [B, C, H, W].
        partners: row of each one's neighbour, int64 [B].
        own: share of the image itself, [B]; the rest is its neighbour's.
    """

    images: Tensor
    partners: Tensor
    own: Tensor


class Mixing:
    """Applies a `MixingConfig` to batches."""

    def __init__(self, config: MixingConfig) -> None:
        self.config = config

    def draw(self, n: int, generator: torch.Generator) -> MixingParams:
        """Draw the parameters of `n` samples on the generator's device."""
        config, device = self.config, generator.device
        uniform = torch.rand(n, 5, generator=generator, device=device)
        both = config.mixup > 0 and config.cutmix > 0
        paste = (uniform[:, 1] < 0.5) if both else torch.full_like(uniform[:, 1], config.cutmix > 0)
        paste = paste.bool()
        own = torch.where(
            paste, _beta(uniform[:, 2], config.cutmix), _beta(uniform[:, 2], config.mixup)
        )
        own = torch.where(uniform[:, 0] < config.chance, own, 1.0)
        return MixingParams(own=own, paste=paste, middle=uniform[:, 3:5])

    def apply(self, images: Tensor, params: MixingParams) -> Mixed:
        """Mix images [B, C, H, W] with their neighbours."""
        height, width = images.shape[2:]
        rows = torch.arange(len(images), device=images.device)
        partners = (rows ^ 1).clamp(max=len(images) - 1)
        side = torch.tensor([height, width], device=images.device)
        size = ((1 - params.own).sqrt()[:, None] * side).round().long()
        first = (params.middle * side).long() - size // 2
        first, last = first.clamp(min=0), (first + size).minimum(side)
        pasted = boxes(first, last, height, width) & params.paste[:, None, None, None]
        blended = torch.where(params.paste, 1.0, params.own)
        others = images[partners]
        mixed = torch.lerp(others, images, per_sample(blended, images))
        area = (last - first).clamp(min=0).prod(1) / (height * width)
        return Mixed(
            torch.where(pasted, others, mixed),
            partners,
            torch.where(params.paste, 1 - area, params.own),
        )


def _beta(uniform: Tensor, strength: float) -> Tensor:
    """Return the values of Beta(strength, strength) at these quantiles; 1 for a strength of 0."""
    if strength == 0:
        return torch.ones_like(uniform)
    quantiles = betaincinv(strength, strength, uniform.double().cpu().numpy())
    return torch.from_numpy(quantiles).to(uniform)
