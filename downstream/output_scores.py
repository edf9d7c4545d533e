"""Scores of what a trained model says against true labels, whatever its output is.

Shapes: N images, K classes, labels or quantities.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.metrics import classification_scores
from models.outputs import Classes, MultiLabel, Output, Regression

_SMALLEST = 1e-12


def scores_of(output: Output, values: Tensor, labels: Tensor) -> dict[str, float]:
    """Score values float32 [N, K] by labels [N] or [N, K], which are not standardized.

    Returns:
        Of classes `accuracy`, `macro_f1` and `nll`. Of several labels `map`, the mean of the
        average precisions of those that some image has, `accuracy`, the share of all labels that
        are right, and `nll`, in nats for a label. Of quantities `mae` and `rmse`, means over all
        of them in their own units, and `r2`, the mean coefficient of determination.
    """
    match output:
        case Classes():
            logits = values.clamp_min(_SMALLEST).log().numpy()
            return dict(classification_scores(logits, labels.numpy())._asdict())
        case MultiLabel():
            return _multi_label_scores(values.double().numpy(), labels.numpy() > 0)
        case Regression():
            return _regression_scores(values.double(), labels.double())


def headline(output: Output, scores: dict[str, float]) -> str:
    """Return the score that matters most, in words."""
    match output:
        case Classes():
            return f"{100 * scores['accuracy']:.1f} % right"
        case MultiLabel():
            return f"mean average precision {100 * scores['map']:.1f} %"
        case Regression():
            return (
                f"mean absolute error {scores['mae']:.4g}, root mean squared error "
                f"{scores['rmse']:.4g}, R² {scores['r2']:.3f}"
            )


def average_precision(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Return the mean, over images that have a label, of the precision among those ranked as high.

    Images of equal value count as one step (as in scikit-learn's average_precision_score).

    Args:
        values: [N]; labels: [N], at least one of them true.
    """
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], labels[order]
    last_of_equals = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = np.cumsum(hits)[last_of_equals]
    precision = found / (last_of_equals + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / hits.sum())


def _multi_label_scores(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> dict[str, float]:
    present = np.flatnonzero(labels.any(axis=0))
    precisions = [average_precision(values[:, k], labels[:, k]) for k in present]
    right = np.where(labels, values, 1 - values).clip(_SMALLEST)
    return {
        "map": float(np.mean(precisions)) if precisions else 0.0,
        "accuracy": float(((values >= 0.5) == labels).mean()),
        "nll": float(-np.log(right).mean()),
    }


def _regression_scores(values: Tensor, labels: Tensor) -> dict[str, float]:
    errors = values - labels
    deviations = (labels - labels.mean(dim=0)).square().sum(dim=0).clamp_min(_SMALLEST)
    r2 = 1 - errors.square().sum(dim=0) / deviations
    return {
        "mae": float(errors.abs().mean()),
        "rmse": float(torch.sqrt(errors.square().mean())),
        "r2": float(r2.mean()),
    }
