"""What the two players of a GAN minimize, by kind.

Shapes: B rows. Logits are what the discriminator says, [B]: large for real, small for generated.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F


class _Loss(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Smoothed(_Loss):
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="what a real image's target of 1 is lowered by for the discriminator; that of "
        "generated ones stays 0 (Salimans et al. 2016)",
    )


class NonSaturating(_Smoothed):
    """Cross-entropy; the generator wants its images taken for real (Goodfellow et al. 2014)."""

    kind: Literal["non_saturating"] = "non_saturating"


class Minimax(_Smoothed):
    """Cross-entropy; the generator maximizes the discriminator's (Goodfellow et al. 2014).

    Its gradient vanishes where the discriminator is sure.
    """

    kind: Literal["minimax"] = "minimax"


class LeastSquares(_Smoothed):
    """Squared distances from 1 for real and 0 for generated images (Mao et al. 2017)."""

    kind: Literal["least_squares"] = "least_squares"


class Hinge(_Loss):
    """A margin of 1 to either side (Lim & Ye 2017; Miyato et al. 2018)."""

    kind: Literal["hinge"] = "hinge"


class Wasserstein(_Loss):
    """The difference of the mean logits (Arjovsky et al. 2017).

    It bounds a distance only where the critic's slope is bounded: by `clip`, or by the penalty
    `interpolated` (Gulrajani et al. 2017).
    """

    kind: Literal["wasserstein"] = "wasserstein"
    clip: float | None = Field(
        None, gt=0, description="every weight of the critic is kept within ± this; null: not"
    )


class Relativistic(_Loss):
    """Each real image is to be more real than the generated one of its row.

    Jolicoeur-Martineau 2019, as paired by Huang et al. 2024 (R3GAN), with the penalty
    `zero_centred` on both.
    """

    kind: Literal["relativistic"] = "relativistic"


AdversarialLossConfig = Annotated[
    NonSaturating | Minimax | LeastSquares | Hinge | Wasserstein | Relativistic,
    Field(discriminator="kind"),
]


def discriminator_loss(config: AdversarialLossConfig, real: Tensor, fake: Tensor) -> Tensor:
    """Return what the discriminator minimizes, the mean over rows.

    Args:
        real, fake: logits [B] of real and of generated images.
    """
    match config:
        case NonSaturating(label_smoothing=smoothing) | Minimax(label_smoothing=smoothing):
            # softplus(-x) is the cross-entropy of a logit x to the target 1, and x that of 0 less.
            return (F.softplus(-real) + smoothing * real + F.softplus(fake)).mean()
        case LeastSquares(label_smoothing=smoothing):
            return 0.5 * ((real - (1 - smoothing)).square() + fake.square()).mean()
        case Hinge():
            return (F.relu(1 - real) + F.relu(1 + fake)).mean()
        case Wasserstein():
            return (fake - real).mean()
        case Relativistic():
            return F.softplus(fake - real).mean()


def generator_loss(config: AdversarialLossConfig, real: Tensor, fake: Tensor) -> Tensor:
    """Return what the generator minimizes, the mean over rows.

    Args:
        real: logits [B] of real images, which only `relativistic` looks at.
        fake: logits [B] of generated ones.
    """
    match config:
        case NonSaturating():
            return F.softplus(-fake).mean()
        case Minimax():
            return -F.softplus(fake).mean()
        case LeastSquares():
            return 0.5 * (fake - 1).square().mean()
        case Hinge() | Wasserstein():
            return -fake.mean()
        case Relativistic():
            return F.softplus(real - fake).mean()


def pair_loss(config: AdversarialLossConfig, real: Tensor, fake: Tensor) -> Tensor:
    """Return what a generator and an encoder from images to codes minimize, the mean over rows.

    They want each other's place: generated pairs taken for real ones, and real ones for generated
    (Dumoulin et al. 2017; Donahue et al. 2017). Of the generator's kind for either.

    Args:
        real: logits [B] of real images and the codes inferred from them.
        fake: logits [B] of generated images and the codes they were made of.
    """
    match config:
        case NonSaturating():
            return (F.softplus(-fake) + F.softplus(real)).mean()
        case Minimax():
            return -(F.softplus(fake) + F.softplus(-real)).mean()
        case LeastSquares():
            return 0.5 * ((fake - 1).square() + real.square()).mean()
        case Hinge() | Wasserstein():
            return (real - fake).mean()
        case Relativistic():
            return F.softplus(real - fake).mean()


def told_apart(config: AdversarialLossConfig, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return which real and which generated images the discriminator tells right, bool [B] each.

    Losses that only compare have no decision of their own: there it is the other image of the row
    for `relativistic`, and half-way between the two means for `wasserstein`.
    """
    border: Tensor | float
    match config:
        case Relativistic():
            return real > fake, real > fake
        case Wasserstein():
            border = (real.mean() + fake.mean()) / 2
        case LeastSquares():
            border = 0.5
        case _:
            border = 0.0
    return real > border, fake < border


@torch.no_grad()
def clip_weights(config: AdversarialLossConfig, *critic: nn.Module) -> None:
    """Bound the weights of a critic's parts, where `wasserstein` asks for it."""
    if isinstance(config, Wasserstein) and config.clip is not None:
        for part in critic:
            for parameter in part.parameters():
                parameter.clamp_(-config.clip, config.clip)
