"""Which classes are taken for which: the confusion matrix, and the scores of each class.

Shapes: N images, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, fractions in [0, 1].

    Fields:
        precision: of the images predicted as it, how many are of it; None where there are none.
        recall: of its images, how many are predicted as it; None where there are none.
        f1: their harmonic mean; None where there are neither.
        support: how many images are of it.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns), int64 [K, K].

    Args:
        labels, predicted: [N], in [0, K).
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def class_scores(confusion: NDArray[np.int64]) -> list[ClassScores]:
    """Return the scores of each class of a confusion matrix [K, K]."""
    hits = confusion.diagonal().tolist()
    support, predicted = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    return [
        ClassScores(
            precision=_share(hit, as_it),
            recall=_share(hit, of_it),
            f1=_share(2 * hit, of_it + as_it),
            support=of_it,
        )
        for hit, of_it, as_it in zip(hits, support, predicted, strict=True)
    ]


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share of independent trials, 1 or more (Wilson 1927)."""
    z2 = _NORMAL_QUANTILE**2 / trials
    share = hits / trials
    middle = share + z2 / 2
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
