"""How many labels an accuracy beyond the budgets would need, and when no answer is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from downstream.arms import Arm
from downstream.power_law import RATES, Array, PowerLaws, fit_power_laws
from downstream.resampled_curves import Bounds, Estimate, MeanCurve, bounds

_FITS = 1000
_LEAST_BUDGETS = 4
_FURTHEST = 10.0
"""Neither a number of labels over the largest budget nor a range's ends may differ by more."""
_CLOSE = 0.005
"""A prediction that is off by less than half a point is right enough, however sure it is."""
_LEAST_WIDTH = 0.25
"""Of the intervals' median: five draws may lie close together by chance."""


@dataclass(frozen=True)
class HeldOut:
    """What the largest budget's accuracy is predicted to be without it, and what was measured."""

    budget: int
    predicted: Estimate
    measured: float


@dataclass(frozen=True)
class LearningLaw:
    """error(N) = asymptote + scale N^-rate of one arm; errors are fractions.

    Fields:
        held_out: None where too few budgets would be left.
        refused: why nothing is extrapolated from it; None where something may be.
    """

    asymptote: Estimate
    scale: Estimate
    rate: Estimate
    held_out: HeldOut | None
    refused: str | None


@dataclass(frozen=True)
class Extrapolated:
    """Labels that an arm would need for a target accuracy beyond those it has reached.

    `labels` is None where `refused` says why there is no answer; `interval` may be known still.
    """

    arm: Arm
    target: float
    labels: float | None
    interval: Bounds | None
    refused: str | None


def extrapolate(
    arm: Arm, curve: MeanCurve, targets: Sequence[float]
) -> tuple[LearningLaw | None, list[Extrapolated]]:
    """Return the law of an arm's mean accuracies, and the labels that it gives for targets.

    There is none with fewer than four budgets or with a single draw.

    Args:
        targets: accuracies in (0, 1); those that the mean curve reaches are left out.
    """
    targets = [target for target in targets if target > curve.means.max()]
    if len(curve.budgets) < _LEAST_BUDGETS or curve.resampled is None:
        why = "a fit takes four budgets or more, each with two draws or more"
        return None, [Extrapolated(arm, target, None, None, why) for target in targets]
    law, resampled = _fit(curve)
    held_out, wrong = _held_out(curve) if len(curve.budgets) > _LEAST_BUDGETS else (None, False)
    refused = _refused(law, held_out if wrong else None)
    found = LearningLaw(
        _estimate(law.asymptote, resampled.asymptote),
        _estimate(law.scale, resampled.scale),
        _estimate(law.rate, resampled.rate),
        held_out,
        refused,
    )
    first, furthest = float(curve.budgets[0]), _FURTHEST * float(curve.budgets[-1])
    answers = []
    for target in targets:
        labels = float(law.labels(1 - target))
        needed = resampled.labels(1 - target)
        interval = bounds(np.where(needed > furthest, np.inf, needed), first, furthest)
        why_not = refused or _out_of_reach(law, labels, interval, furthest)
        answers.append(Extrapolated(arm, target, None if why_not else labels, interval, why_not))
    return found, answers


def _out_of_reach(law: PowerLaws, labels: float, interval: Bounds, furthest: float) -> str | None:
    if labels == np.inf:
        return f"the fitted curve levels off at {100 * (1 - float(law.asymptote)):.1f} %"
    if labels > furthest:
        return f"it would take more than {_FURTHEST:.0f} times the largest budget"
    if interval.low is None or interval.high is None or interval.high > _FURTHEST * interval.low:
        return "it cannot be told within a factor of ten"
    return None


def _fit(curve: MeanCurve) -> tuple[PowerLaws, PowerLaws]:
    """The law of the means, and those of resampled curves [_FITS]."""
    assert curve.resampled is not None
    low, high = np.quantile(curve.resampled, (0.025, 0.975), axis=0)
    width = high - low
    width = np.maximum(width, _LEAST_WIDTH * np.median(width))
    weights = 1 / width**2 if width.min() > 0 else np.ones_like(width)
    return (
        fit_power_laws(1 - curve.means, curve.budgets, weights),
        fit_power_laws(1 - curve.resampled[:_FITS], curve.budgets, weights),
    )


def _held_out(curve: MeanCurve) -> tuple[HeldOut, bool]:
    """What a fit without the largest budget says of it, and whether it is clearly wrong."""
    assert curve.resampled is not None
    law, resampled = _fit(curve.at(curve.budgets[:-1]))
    last = float(curve.budgets[-1])
    predicted = 1 - resampled.errors(last)
    low, high = np.quantile(predicted - curve.resampled[:_FITS, -1], (0.025, 0.975))
    found = HeldOut(int(last), _estimate(1 - law.errors(last), predicted), float(curve.means[-1]))
    far = abs(found.predicted.value - found.measured) > _CLOSE
    return found, far and bool(low > 0 or high < 0)


def _refused(law: PowerLaws, wrong: HeldOut | None) -> str | None:
    if float(law.scale) == 0:
        return "accuracy does not rise with labels"
    if float(law.rate) in (RATES[0], RATES[-1]):
        return (
            "the budgets do not say how fast the error falls: its rate is at the end of its range"
        )
    if wrong is not None:
        return (
            f"fitted without {wrong.budget:,} labels, it predicts "
            f"{100 * wrong.predicted.value:.1f} % there, where {100 * wrong.measured:.1f} % was "
            "measured"
        )
    return None


def _estimate(value: Array, resampled: Array) -> Estimate:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))
