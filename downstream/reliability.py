"""Whether confidences are true: images by confidence, and how many of each group are right.

Shapes: N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from downstream.confusion import wilson_interval
from downstream.report_drawing import NARROW, WIDE
from pages.figures import new_figure
from pages.style import LIGHT

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


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy over images, by bin (Naeini et al. 2015)."""
    images = sum(one.images for one in bins)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / images


def reliability_figure(bins: Sequence[Bin], *, narrow: bool) -> Figure:
    """Accuracy against confidence with its interval, over how many images each bin holds."""
    figure = new_figure(NARROW, 420.0) if narrow else new_figure(0.65 * WIDE, 480.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places = [100 * one.confidence for one in bins]
    values = [100 * one.accuracy for one in bins]
    reach = [
        [100 * (one.accuracy - one.interval[0]) for one in bins],
        [100 * (one.interval[1] - one.accuracy) for one in bins],
    ]
    above.plot([0, 100], [0, 100], color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    above.errorbar(
        places,
        values,
        yerr=reach,
        color=LIGHT["accent"],
        marker="o",
        markeredgewidth=0,
        linewidth=1.6,
        elinewidth=1.4,
        capsize=3,
    )
    above.set_ylabel("right, %")
    above.set_ylim(0, 102)
    below.bar(
        [100 * one.low for one in bins],
        [one.images for one in bins],
        width=100 / BINS * 0.9,
        align="edge",
        color=LIGHT["accent"],
        alpha=0.55,
    )
    below.set_ylabel("images")
    below.set_xlabel("confidence, %")
    below.set_xlim(0, 102)
    figure.align_ylabels()
    return figure
