"""Penalties on the slope of a discriminator, by kind.

Shapes: B rows, C channels, H height, W width, L values of a latent code.
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.randomness import StepDraws


class Judged(NamedTuple):
    """What a discriminator judges.

    Attributes:
        images: float [B, C, H, W], as it sees them.
        codes: [B, L] where it judges pairs of an image and a code.
    """

    images: Tensor
    codes: Tensor | None = None


Judge = Callable[[Judged], Tensor]
"""Gives logits [B]; no row's logit may depend on another row."""


class _Penalty(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoPenalty(_Penalty):
    """No penalty."""

    kind: Literal["none"] = "none"


class _Lazy(_Penalty):
    every: int = Field(
        1,
        ge=1,
        description="steps from one penalty to the next, which then counts so many times as much "
        "(lazy regularization, Karras et al. 2020)",
    )


class ZeroCentred(_Lazy):
    """Half the squared slope at real (R1) and at generated images (R2), towards 0.

    Mescheder et al. 2018; both together in R3GAN (Huang et al. 2024).
    """

    kind: Literal["zero_centred"] = "zero_centred"
    real: float = Field(1.0, ge=0, description="gamma of R1")
    fake: float = Field(0.0, ge=0, description="gamma of R2")

    @model_validator(mode="after")
    def _penalizes(self) -> "ZeroCentred":
        if self.real == self.fake == 0:
            raise ValueError("found 0 for real and for fake; give one a weight, or kind none")
        return self


class Interpolated(_Lazy):
    """The slope between a real and a generated image, towards 1 (WGAN-GP, Gulrajani 2017)."""

    kind: Literal["interpolated"] = "interpolated"
    weight: float = Field(10.0, gt=0, description="lambda")


PenaltyConfig = Annotated[
    NoPenalty | ZeroCentred | Interpolated,
    Field(discriminator="kind"),
]


def is_due(config: PenaltyConfig, step: int) -> bool:
    """Whether the penalty is computed in a step, counted from 0."""
    return not isinstance(config, NoPenalty) and (step + 1) % config.every == 0


def penalty(
    config: ZeroCentred | Interpolated, judge: Judge, real: Judged, fake: Judged, draws: StepDraws
) -> Tensor:
    """Return the penalty, its weight and its laziness included; differentiable in the judge.

    In float32 throughout: squares of small slopes are lost in half precision.

    Args:
        judge: run eagerly: compilers do not differentiate twice.
        real, fake: equally many.
    """
    with torch.autocast(real.images.device.type, enabled=False):
        match config:
            case ZeroCentred():
                terms = [
                    gamma / 2 * slopes(judge, judged).square().mean()
                    for gamma, judged in ((config.real, real), (config.fake, fake))
                    if gamma > 0
                ]
                total = torch.stack(terms).sum()
            case Interpolated():
                between = _between(fake, real, draws.rand("interpolated", 1))
                total = config.weight * (slopes(judge, between) - 1).square().mean()
        return config.every * total


def _between(one: Judged, other: Judged, share: Tensor) -> Judged:
    images = torch.lerp(one.images.float(), other.images.float(), share[:, :, None, None])
    if one.codes is None or other.codes is None:
        return Judged(images)
    return Judged(images, torch.lerp(one.codes.float(), other.codes.float(), share))


def slopes(judge: Judge, judged: Judged) -> Tensor:
    """Return the norm of each logit's gradient with respect to its own image, [B]."""
    images = judged.images.detach().float().requires_grad_(True)
    codes = None if judged.codes is None else judged.codes.detach().float()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention is differentiable once
        logits = judge(Judged(images, codes))
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    # The norm's own slope is not finite at 0.
    return (gradients.square().flatten(1).sum(1) + torch.finfo().tiny).sqrt()
