"""From a config to fitted heads, of whichever kind."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from downstream.heads.attention import AttentionConfig, fit_attention
from downstream.heads.diffusion import Pool
from downstream.heads.discriminant import (
    DiscriminantConfig,
    discriminant_flops,
    fit_discriminant,
)
from downstream.heads.label_propagation import (
    LabelPropagationConfig,
    fit_label_propagation,
    propagation_flops,
)
from downstream.heads.linear import linear_flops
from downstream.heads.logistic import LogisticConfig, fit_logistic
from downstream.heads.mlp import MlpConfig, fit_mlp, mlp_flops
from downstream.heads.multi_label import fit_multi_label
from downstream.heads.neighbours import NeighboursConfig, fit_neighbours, neighbours_flops
from downstream.heads.poisson import PoissonConfig, fit_poisson, poisson_flops
from downstream.heads.problems import ChosenInside, FittedHead, Problems, held_out_folds
from downstream.heads.prototypes import (
    EuclideanPrototypesConfig,
    PrototypesConfig,
    fit_prototypes,
    prototypes_flops,
)
from downstream.heads.pseudo_labels import (
    PseudoLabelsConfig,
    fit_pseudo_labels,
    pseudo_labels_flops,
)
from downstream.heads.ridge import RidgeConfig, fit_ridge, ridge_flops
from downstream.heads.ridge_regression import fit_ridge_regression
from downstream.heads.smoothed import SmoothedConfig, fit_smoothed, smoothed_flops
from downstream.heads.softmax import SoftmaxConfig, fit_softmax, softmax_flops
from downstream.heads.svm import SvmConfig, fit_svm
from models.outputs import Classes, MultiLabel, Output, Regression
from models.stages import Shape

LabelledHead = (
    SoftmaxConfig
    | LogisticConfig
    | RidgeConfig
    | SvmConfig
    | DiscriminantConfig
    | PrototypesConfig
    | NeighboursConfig
    | MlpConfig
)
GraphHead = SmoothedConfig | PseudoLabelsConfig | LabelPropagationConfig | PoissonConfig

HeadConfig = Annotated[LabelledHead, Field(discriminator="kind")]
"""Heads that learn from labelled images alone."""

StudyHeadConfig = Annotated[LabelledHead | GraphHead, Field(discriminator="kind")]

ModelHeadConfig = Annotated[
    SoftmaxConfig
    | LogisticConfig
    | RidgeConfig
    | SvmConfig
    | DiscriminantConfig
    | EuclideanPrototypesConfig
    | MlpConfig
    | AttentionConfig
    | PseudoLabelsConfig,
    Field(discriminator="kind"),
]
"""Heads that are layers of a network, or can be: they need no labelled rows to predict."""

_KINDS: dict[str, tuple[str, ...]] = {
    "multi_label": ("logistic", "mlp", "attention"),
    "regression": ("ridge", "mlp", "attention"),
}
_WEIGHTED = ("softmax", "logistic", "mlp", "attention")


def heads_of(
    features: Tensor,
    labels: Tensor,
    config: StudyHeadConfig | ModelHeadConfig,
    *,
    classes: int,
    std_floor: float,
    fold_seeds: Sequence[int],
    output: Output | None = None,
    copies: int = 0,
    class_weights: Tensor | None = None,
    shapes: Sequence[Shape] = (),
    pool: Pool | None = None,
) -> Sequence[FittedHead]:
    """Fit a head on each of D problems, whose labels are divided into folds where it asks for some.

    Args:
        features: float32 [D, (1 + copies) * N, F]; labels: int64 [D, N], or float32 [D, N, C] of
            another output than classes; on one device.
        fold_seeds: one for each problem.
        output: what scores mean; None: one class of C.
        copies: changed copies of each labelled image among the features, after all images.
        class_weights: [D, C], what a label of each class counts, 1 on average; None: all the same.
        shapes: of the stages that the features come from, (C, S, S) each; `attention` reads them.
        pool: the unlabelled images, for heads on a graph of these.
    """
    output = output or Classes()
    folds = None
    if isinstance(config, ChosenInside):
        strata = torch.stack([output.strata(own) for own in labels])
        folds = held_out_folds(strata, config, fold_seeds)
    weights = None
    if class_weights is not None or copies:
        weights = features.new_ones(labels.shape[:2]) / (1 + copies)
        if class_weights is not None:
            weights *= class_weights.gather(1, labels)
        weights = weights.repeat(1, 1 + copies)
    if copies:
        labels = torch.cat([labels] * (1 + copies), dim=1)
        folds = None if folds is None else folds.repeat(1, 1 + copies)
    problems = Problems(
        features,
        labels,
        folds,
        classes,
        std_floor,
        output=output,
        copies=copies,
        weights=weights,
        pool=pool,
    )
    return fit_heads(problems, config, shapes=shapes, seeds=fold_seeds)


def check_head(
    config: StudyHeadConfig | ModelHeadConfig, output_kind: str, *, weighted: bool
) -> None:
    """Check that a kind of head can learn what is asked of it.

    Raises:
        ValueError: in words that follow the name of the head's key.
    """
    known = _KINDS.get(output_kind, (config.kind,))
    if config.kind not in known:
        raise ValueError(f"found {config.kind} for {output_kind}; take {', '.join(known)}")
    if weighted and config.kind not in _WEIGHTED:
        raise ValueError(
            f"found {config.kind} with class_weights, which it knows nothing of; take "
            f"{', '.join(_WEIGHTED)}, or class_weights null"
        )


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return what a label of each class counts so that classes count the same, [classes].

    1 on average over labels int64 [N]; of a class without a label 1.
    """
    counts = torch.bincount(labels, minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp_min(1)), 1.0)


def fit_heads(
    problems: Problems,
    config: StudyHeadConfig | ModelHeadConfig,
    *,
    shapes: Sequence[Shape] = (),
    seeds: Sequence[int] | None = None,
) -> Sequence[FittedHead]:
    """Choose what each problem's head leaves open inside its labels, and fit it on all of them.

    Args:
        shapes: of the stages that the features come from, (C, S, S) each; `attention` reads them.
        seeds: of heads that draw something, one for each problem; None: their numbers.
    """
    seeds = range(len(problems.labels)) if seeds is None else seeds
    match config:
        case LogisticConfig() if isinstance(problems.output, MultiLabel):
            return fit_multi_label(problems, config)
        case RidgeConfig() if isinstance(problems.output, Regression):
            return fit_ridge_regression(problems, config)
        case MlpConfig():
            return fit_mlp(problems, config, seeds=seeds)
        case AttentionConfig():
            return fit_attention(problems, config, shapes, seeds=seeds)
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
        case SmoothedConfig():
            return fit_smoothed(problems, config)
        case PseudoLabelsConfig():
            return fit_pseudo_labels(problems, config)
        case LabelPropagationConfig():
            return fit_label_propagation(problems, config)
        case PoissonConfig():
            return fit_poisson(problems, config)


def head_flops(
    config: StudyHeadConfig, labels: int, features: int, classes: int, images: int
) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes.

    Args:
        images: how many there are, for heads on a graph of them all.
    """
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
        case MlpConfig():
            return mlp_flops(config, labels, features, classes)
        case SmoothedConfig():
            return smoothed_flops(config, labels, features, images, classes)
        case PseudoLabelsConfig():
            return pseudo_labels_flops(config, labels, images, classes)
        case LabelPropagationConfig():
            return propagation_flops(images, config.graph.neighbours, classes)
        case PoissonConfig():
            return poisson_flops(images, config.graph.neighbours, classes)
