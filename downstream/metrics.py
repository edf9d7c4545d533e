"""Scores of class logits against true labels: accuracy, macro F1, likelihood, calibration."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from downstream.confusion import class_scores, confusion_matrix
from downstream.reliability import calibration_error, reliability


class ClassificationScores(NamedTuple):
    """`accuracy` and `macro_f1` are fractions in [0, 1], `nll` a mean in nats."""

    accuracy: float
    macro_f1: float
    nll: float


def classification_scores(
    logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> ClassificationScores:
    """Score logits.

    Args:
        logits: [N, K], unnormalized log-probabilities.
        labels: [N], in [0, K).
    Returns:
        Macro F1 is the mean over the classes that occur among the labels or the predictions; a
        class that is never predicted scores 0.
    """
    predicted = logits.argmax(axis=1)
    classes = logits.shape[1]
    confusion = confusion_matrix(labels, predicted, classes)
    hits = np.diag(confusion)
    occurrences = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * hits[occurrences > 0] / occurrences[occurrences > 0]
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_normalizer = np.log(np.exp(shifted).sum(axis=1))
    nll = log_normalizer - shifted[np.arange(len(labels)), labels]
    return ClassificationScores(
        accuracy=float(hits.sum() / len(labels)),
        macro_f1=float(f1.mean()),
        nll=float(nll.mean()),
    )


def expected_calibration_error(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return how far confidences are from the share that is right, a fraction in [0, 1].

    The mean over 15 bins of the confidence, each with the weight of its rows (Guo et al. 2017, "On
    Calibration of Modern Neural Networks").

    Args:
        logits: [N, K], unnormalized log-probabilities.
        labels: [N], in [0, K).
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    right = probabilities.argmax(axis=1) == labels
    return calibration_error(reliability(probabilities.max(axis=1), right))


def class_accuracies(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float | None]:
    """Return the share of each class's images that is right; None for a class without images.

    Args:
        logits: [N, K], unnormalized log-probabilities.
        labels: [N], in [0, K).
    """
    confusion = confusion_matrix(labels, logits.argmax(axis=1), logits.shape[1])
    return [scores.recall for scores in class_scores(confusion)]


def row_scores(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    copies: NDArray[np.bool_] | None = None,
    *,
    remove_copies: bool = False,
) -> dict[str, Any]:
    """Return every score of a study's row, by its field of `results.Row`.

    Args:
        logits: [N, K], unnormalized log-probabilities.
        labels: [N], in [0, K).
        copies: [N], which test images have a copy among those learned from.
        remove_copies: score the others alone.
    """
    apart: dict[str, float] = {}
    if copies is not None and copies.any() and not copies.all():
        if remove_copies:
            apart["with_copies"] = classification_scores(logits, labels).accuracy
            logits, labels = logits[~copies], labels[~copies]
        else:
            others = classification_scores(logits[~copies], labels[~copies])
            apart["without_copies"] = others.accuracy
    return {
        **classification_scores(logits, labels)._asdict(),
        "ece": expected_calibration_error(logits, labels),
        "class_accuracies": class_accuracies(logits, labels),
        **apart,
    }
