"""Labels saved: how many labels a control needs to reach what an arm reaches with N.

The utility of Newell & Deng (2020), "How useful is self-supervised pretraining for visual tasks?":
U(N) = n / N - 1, with n found by linear interpolation of the control's curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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
    """

    budget: int
    labels_needed: float
    saved: float
    flag: Flag | None

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
    budgets = sorted(control)
    crossed_at = crossings(arm, control)
    found = []
    for budget in sorted(arm):
        needed, flag = _labels_needed(arm[budget], control, budgets)
        if flag is None and any(at < budget for at in crossed_at):
            flag = "crosses"
        found.append(LabelsSaved(budget, needed, needed - budget, flag))
    return found


def _labels_needed(target: float, control: Curve, budgets: list[int]) -> tuple[float, Flag | None]:
    """Smallest number of labels at which the control, linear in labels, reaches `target`."""
    if target < control[budgets[0]]:
        return float(budgets[0]), "below_start"
    if target == control[budgets[0]]:
        return float(budgets[0]), None
    for left, right in pairwise(budgets):
        if control[right] >= target:
            share = (target - control[left]) / (control[right] - control[left])
            return left + share * (right - left), None
    return float(budgets[-1]), "never_reached"


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
