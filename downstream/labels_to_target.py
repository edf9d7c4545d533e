"""How many labels an arm needs for an accuracy that was asked for, on its mean curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from downstream.arms import Arm
from downstream.interpolation import labels_reaching
from downstream.resampled_curves import Bounds, MeanCurve, bounds


@dataclass(frozen=True)
class LabelsToTarget:
    """Labels that an arm needs for a target accuracy in (0, 1).

    Fields:
        labels: interpolated, linear in the logarithm of labels; a bound where flagged.
        flag: "never_reached": more than `labels`, the largest budget; "below_start": fewer than
            `labels`, the smallest budget, which is above the target already.
        interval: None with one draw.
    """

    arm: Arm
    target: float
    labels: float
    flag: Literal["never_reached", "below_start"] | None
    interval: Bounds | None


def labels_to_targets(
    curves: Mapping[Arm, MeanCurve], targets: Sequence[float]
) -> list[LabelsToTarget]:
    """Return the labels that each arm needs for each target, targets in turn."""
    return [labels_to_target(arm, curves[arm], target) for target in targets for arm in curves]


def labels_to_target(arm: Arm, curve: MeanCurve, target: float) -> LabelsToTarget:
    """Return the labels that one arm needs for one target."""
    first, last = float(curve.budgets[0]), float(curve.budgets[-1])
    interval = None
    if curve.resampled is not None:
        found = labels_reaching(curve.resampled, curve.budgets, target, "log_labels")
        interval = bounds(found, first, last)
    labels = float(labels_reaching(curve.means, curve.budgets, target, "log_labels"))
    if labels == np.inf:
        return LabelsToTarget(arm, target, last, "never_reached", interval)
    if labels == -np.inf:
        return LabelsToTarget(arm, target, first, "below_start", interval)
    return LabelsToTarget(arm, target, labels, None, interval)
