"""From a config to fitted heads, of whichever kind."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from downstream.heads.discriminant import (
    DiscriminantConfig,
    discriminant_flops,
    fit_discriminant,
)
from downstream.heads.linear import linear_flops
from downstream.heads.logistic import LogisticConfig, fit_logistic
from downstream.heads.neighbours import NeighboursConfig, fit_neighbours, neighbours_flops
from downstream.heads.problems import ChosenInside, FittedHead, Problems, held_out_folds
from downstream.heads.prototypes import PrototypesConfig, fit_prototypes, prototypes_flops
from downstream.heads.ridge import RidgeConfig, fit_ridge, ridge_flops
from downstream.heads.softmax import SoftmaxConfig, fit_softmax, softmax_flops
from downstream.heads.svm import SvmConfig, fit_svm

HeadConfig = Annotated[
    SoftmaxConfig
    | LogisticConfig
    | RidgeConfig
    | SvmConfig
    | DiscriminantConfig
    | PrototypesConfig
    | NeighboursConfig,
    Field(discriminator="kind"),
]


def heads_of(
    features: Tensor,
    labels: Tensor,
    config: HeadConfig,
    *,
    classes: int,
    std_floor: float,
    fold_seeds: Sequence[int],
) -> Sequence[FittedHead]:
    """Fit a head on each of D problems, whose labels are divided into folds where it asks for some.

    Args:
        features: float32 [D, N, F]; labels: int64 [D, N]; on one device.
        fold_seeds: one for each problem.
    """
    folds = None
    if isinstance(config, ChosenInside):
        folds = held_out_folds(labels, config, fold_seeds)
    return fit_heads(Problems(features, labels, folds, classes, std_floor), config)


def fit_heads(problems: Problems, config: HeadConfig) -> Sequence[FittedHead]:
    """Choose what each problem's head leaves open inside its labels, and fit it on all of them."""
    match config:
        case SoftmaxConfig():
            return fit_softmax(problems, config)
        case LogisticConfig():
            return fit_logistic(problems, config)
        case RidgeConfig():
            return fit_ridge(problems, config)
        case SvmConfig():
            return fit_svm(problems, config)
        case DiscriminantConfig():
            return fit_discriminant(problems, config)
        case PrototypesConfig():
            return fit_prototypes(problems, config)
        case NeighboursConfig():
            return fit_neighbours(problems, config)


def head_flops(config: HeadConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    match config:
        case SoftmaxConfig():
            return softmax_flops(config, labels, features, classes)
        case LogisticConfig() | SvmConfig():
            return linear_flops(config, labels, features, classes)
        case RidgeConfig():
            return ridge_flops(config, labels, features, classes)
        case DiscriminantConfig():
            return discriminant_flops(config, labels, features, classes)
        case PrototypesConfig():
            return prototypes_flops(config, labels, features, classes)
        case NeighboursConfig():
            return neighbours_flops(config, labels, features, classes)
