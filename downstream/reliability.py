"""Whether confidences are true: images by confidence, and how many of each group are right.

Shapes: N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downstream.confusion import wilson_interval

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies in (low, high]; all but the counts are fractions in [0, 1].

    Fields:
        confidence: their mean confidence; accuracy: how many are right.
        interval: 95 % interval of the accuracy.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """Return the bins, of 15 equally wide ones, that hold images.

    Args:
        confidence: [N], probability of the predicted class; right: [N].
    """
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for number in np.unique(place).tolist():
        inside = place == number
        images, hits = int(inside.sum()), int(right[inside].sum())
        found.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                images=images,
                confidence=float(confidence[inside].mean()),
                accuracy=hits / images,
                interval=wilson_interval(hits, images),
            )
        )
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy over images, by bin (Guo et al. 2017)."""
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / images
