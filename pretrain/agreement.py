"""An invariance term: two augmentations of an image are to have one code, and codes are to differ.

Shapes: B rows, C channels, H height, W width, D values of a pooled code.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from data.augment import AugmentConfig
from models.encoders import Encoder
from models.heads import pool_to_grid
from pretrain.views import augmented
from training.errors import InputError
from training.randomness import StepDraws

_EPS = 1e-4


class _Agreement(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoAgreement(_Agreement):
    """No such term."""

    kind: Literal["none"] = "none"


class _Views(_Agreement):
    weight: float = Field(0.01, gt=0, description="on the whole term")
    grid: int = Field(1, ge=1, description="side of the raster that the code is pooled to")
    augment: AugmentConfig = AugmentConfig(
        horizontal_flip=True, shift=0.07, scale=(0.8, 1.25), rotation=10.0
    )


class RedundancyReduction(_Views):
    """The views' cross-correlation is to be the identity (Zbontar et al. 2021, Barlow Twins)."""

    kind: Literal["redundancy"] = "redundancy"
    off_diagonal: float = Field(5e-3, gt=0, description="weight of the correlations between units")


class VarianceCovariance(_Views):
    """Equal codes, each unit varied, no two units alike (Bardes et al. 2022, VICReg)."""

    kind: Literal["variance_covariance"] = "variance_covariance"
    invariance: float = Field(25.0, ge=0)
    variance: float = Field(25.0, ge=0)
    covariance: float = Field(1.0, ge=0)


AgreementConfig = Annotated[
    NoAgreement | RedundancyReduction | VarianceCovariance, Field(discriminator="kind")
]


def check_agreement(config: AgreementConfig, *, rows: int) -> None:
    """Refuse statistics over one image.

    Args:
        rows: of a micro-batch on one rank.
    Raises:
        InputError: names the keys; one line.
    """
    if not isinstance(config, NoAgreement) and rows < 2:
        raise InputError(
            f"batch_size: found {rows} image at a time on a rank with objective.agreement.kind "
            f"{config.kind!r}, which compares the images of a batch; take more, a smaller "
            "compute.accumulation, or objective.agreement.kind none"
        )


def disagreement(
    config: RedundancyReduction | VarianceCovariance,
    encoder: Encoder,
    images: Tensor,
    draws: StepDraws,
) -> Tensor:
    """Return the term, its weight included, of an encoder on float images [B, C, H, W]."""
    one, other = (
        augmented(config.augment, images, draws, f"agreement/{view}") for view in ("one", "other")
    )
    codes = [pool_to_grid(encoder(view), config.grid) for view in (one, other)]
    return disagreement_of(config, *codes)


def disagreement_of(
    config: RedundancyReduction | VarianceCovariance, a: Tensor, b: Tensor
) -> Tensor:
    """Return the term, its weight included, of two views' pooled codes [B, D]; B at least 2."""
    # Sums of products over a batch overflow in half precision.
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        match config:
            case RedundancyReduction(off_diagonal=off_diagonal):
                term = redundancy(a, b, off_diagonal)
            case VarianceCovariance():
                term = variance_covariance(
                    a,
                    b,
                    invariance=config.invariance,
                    variance=config.variance,
                    covariance=config.covariance,
                )
    return config.weight * term


def redundancy(a: Tensor, b: Tensor, off_diagonal: float) -> Tensor:
    """Return the squared distance of the cross-correlation [D, D] from the identity."""
    normalized = [(z - z.mean(0)) / (z.var(0, correction=0) + _EPS).sqrt() for z in (a, b)]
    correlation = normalized[0].T @ normalized[1] / len(a)
    diagonal = correlation.diagonal()
    on = (1 - diagonal).square().sum()
    return on + off_diagonal * (correlation.square().sum() - diagonal.square().sum())


def variance_covariance(
    a: Tensor, b: Tensor, *, invariance: float, variance: float, covariance: float
) -> Tensor:
    """Return the weighted sum of three terms: codes unlike, units too even, units correlated."""
    return (
        invariance * F.mse_loss(a, b)
        + variance * (_too_even(a) + _too_even(b))
        + covariance * (_off_diagonal_covariance(a) + _off_diagonal_covariance(b))
    )


def _too_even(code: Tensor) -> Tensor:
    # A single row, as images held out may leave one over, has no spread.
    variances = code.var(0, correction=min(1, len(code) - 1))
    return F.relu(1 - (variances + _EPS).sqrt()).mean()


def _off_diagonal_covariance(code: Tensor) -> Tensor:
    centred = code - code.mean(0)
    covariance = centred.T @ centred / max(1, len(code) - 1)
    squares = covariance.square()
    return (squares.sum() - squares.diagonal().sum()) / code.shape[1]
