"""Labels saved: how many labels a control needs to reach what an arm reaches with N.

The utility of Newell & Deng (2020), "How useful is self-supervised pretraining for visual tasks?":
U(N) = n / N - 1, with n found by linear interpolation of the control's curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from downstream.interpolation import labels_reaching
from downstream.resampled_curves import Bounds, MeanCurve, bounds

Curve = Mapping[int, float]
Flag = Literal["never_reached", "below_start", "crosses"]


@dataclass(frozen=True)
class LabelsSaved:
    """What `budget` labels are worth in labels of the control.

    Fields:
        labels_needed: labels the control needs for the arm's mean score; a bound where flagged.
        saved: labels_needed - budget; negative where the control needs fewer.
        flag: None: `labels_needed` was interpolated and the arm has been on one side of the
            control up to here. "never_reached": the control stays below at every budget, so both
            numbers are lower bounds. "below_start": the control is above it at its smallest budget
            already, so both are upper bounds. "crosses": the two curves have crossed at a smaller
            budget.
        interval: of `saved`; None with a single draw.
    """

    budget: int
    labels_needed: float
    saved: float
    flag: Flag | None
    interval: Bounds | None = None

    @property
    def utility(self) -> float:
        """U(N) = labels_needed / N - 1."""
        return self.labels_needed / self.budget - 1


def labels_saved(arm: Curve, control: Curve) -> list[LabelsSaved]:
    """Labels saved at every budget of `arm`, in order.

    Args:
        arm, control: mean score by budget; larger scores are better. Budgets of the arm that the
            control lacks are interpolated like any other score.
    """
    crossed_at = crossings(arm, control)
    found = []
    for budget in sorted(arm):
        needed, flag = _labels_needed(arm[budget], control)
        if flag is None and any(at < budget for at in crossed_at):
            flag = "crosses"
        found.append(LabelsSaved(budget, needed, needed - budget, flag))
    return found


def saved_intervals(arm: MeanCurve, control: MeanCurve) -> dict[int, Bounds]:
    """Return the interval of the labels saved at every budget of `arm`.

    None of them where a curve has no resampled ones; these must share their random numbers, so
    that draws are paired.
    """
    if arm.resampled is None or control.resampled is None:
        return {}
    lowest, highest = float(control.budgets[0]), float(control.budgets[-1])
    found = {}
    for place, budget in enumerate(arm.budgets):
        targets = arm.resampled[:, place]
        needed = labels_reaching(control.resampled, control.budgets, targets, "labels")
        found[int(budget)] = bounds(needed - budget, lowest - budget, highest - budget)
    return found


def _labels_needed(target: float, control: Curve) -> tuple[float, Flag | None]:
    """Smallest number of labels at which the control, linear in labels, reaches `target`."""
    budgets = sorted(control)
    scores = np.array([control[budget] for budget in budgets])
    labels = float(labels_reaching(scores, np.array(budgets, np.float64), target, "labels"))
    if labels == np.inf:
        return float(budgets[-1]), "never_reached"
    if labels == -np.inf:
        return float(budgets[0]), "below_start"
    return labels, None


def crossings(arm: Curve, control: Curve) -> list[float]:
    """Numbers of labels at which the two mean curves, linear in labels, cross each other."""
    budgets = sorted(arm.keys() & control.keys())
    gaps = [(budget, arm[budget] - control[budget]) for budget in budgets]
    gaps = [(budget, gap) for budget, gap in gaps if gap != 0]
    return [
        left + (right - left) * before / (before - after)
        for (left, before), (right, after) in pairwise(gaps)
        if before * after < 0
    ]
