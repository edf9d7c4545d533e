"""What a whole learning curve says: its area, where it starts, how it climbs and where it ends.

"Higher start, higher slope, higher asymptote": the three ways in which transfer may improve
learning, Torrey & Shavlik (2010), "Transfer learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from scipy.integrate import trapezoid

from downstream.arms import Arm
from downstream.resampled_curves import Array, Estimate, MeanCurve, estimate

Measure = Literal["start", "slope", "asymptote", "area"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""Of a curve of accuracies.

    start: accuracy at the smallest budget; asymptote: at the largest, which stands for a limit that
        no study sees.
    slope: accuracy gained per tenfold labels, between the smallest budget and the largest.
    area: mean accuracy over the logarithm of labels, between the same two.
"""


@dataclass(frozen=True)
class CurveDifference:
    """A measure of an arm's curve minus that of its control's, paired by draw."""

    arm: Arm
    control: Arm
    measure: Measure
    value: float
    low: float | None
    high: float | None


def curve_measures(curve: MeanCurve) -> dict[Measure, Estimate]:
    """Return the measures of one arm; none with fewer than two budgets."""
    if len(curve.budgets) < 2:
        return {}
    return {
        measure: estimate(curve, partial(_value, measure, curve.budgets)) for measure in MEASURES
    }


def curve_differences(
    arm: Arm, control: Arm, pair: Mapping[Arm, MeanCurve]
) -> list[CurveDifference]:
    """Return the difference of each measure, over the budgets that both have.

    Args:
        pair: both curves, resampled with the same random numbers.
    """
    ours, theirs = pair[arm], pair[control]
    budgets = np.intersect1d(ours.budgets, theirs.budgets)
    difference = ours.at(budgets).minus(theirs.at(budgets))
    return [
        CurveDifference(arm, control, measure, found.value, found.low, found.high)
        for measure, found in curve_measures(difference).items()
    ]


def _value(measure: Measure, budgets: Array, scores: Array) -> Array:
    """A measure [...] of scores [..., B]."""
    places = np.log10(budgets)
    breadth = places[-1] - places[0]
    match measure:
        case "start":
            return scores[..., 0]
        case "slope":
            return np.asarray((scores[..., -1] - scores[..., 0]) / breadth)
        case "asymptote":
            return scores[..., -1]
        case "area":
            return np.asarray(trapezoid(scores, places, axis=-1) / breadth)
