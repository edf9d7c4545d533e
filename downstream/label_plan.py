"""How many labels to buy for a target accuracy, in lines of text."""

from collections.abc import Mapping

from downstream.arms import Arm
from downstream.extrapolation import HeldOut, extrapolate
from downstream.labels_to_target import labels_to_target
from downstream.resampled_curves import Bounds, MeanCurve


def label_plan(curves: Mapping[Arm, MeanCurve], target: float) -> list[str]:
    """Return a heading, and what each arm needs for a target accuracy in (0, 1)."""
    lines = [f"For {100 * target:.4g} % accuracy:"]
    for arm, curve in curves.items():
        lines.append(f"  {arm}: {_needed(arm, curve, target)}")
    return lines


def _needed(arm: Arm, curve: MeanCurve, target: float) -> str:
    last = float(curve.budgets[-1])
    reached = labels_to_target(arm, curve, target)
    if reached.flag == "below_start":
        return f"reached with {_count(reached.labels)} labels, the fewest tried"
    if reached.flag is None:
        return f"reached with about {_count(reached.labels)} labels{_sure(reached.interval)}"
    law, (found,) = extrapolate(arm, curve, (target,))
    checked = "" if law is None or law.held_out is None else f"; {_checked(law.held_out)}"
    best = f"best so far {100 * float(curve.means.max()):.1f} %"
    if found.labels is None:
        # A refusal by the check says what was predicted itself.
        told = "" if law is None or law.refused is not None else checked
        return f"no answer: {found.refused} ({best}){told}"
    more = max(0.0, found.labels - last)
    return (
        f"buy about {_count(more)} more: {_count(found.labels)} in all{_sure(found.interval)}, "
        f"{best}{checked}"
    )


def _checked(held_out: HeldOut) -> str:
    predicted = held_out.predicted
    assert predicted.low is not None and predicted.high is not None
    low, high = 100 * predicted.low, 100 * predicted.high
    return (
        f"fitted without {held_out.budget:,} labels it predicts {100 * predicted.value:.1f} % "
        f"there ({low:.1f} to {high:.1f}), measured {100 * held_out.measured:.1f} %"
    )


def _sure(interval: Bounds | None) -> str:
    """Such as " (95 %: 150 to 290)"."""
    if interval is None:
        return " (no interval)"
    low, high = interval.low, interval.high
    if low is None:
        return "" if high is None else f" (95 %: up to {_count(high)})"
    return f" (95 %: {_count(low)}{' or more' if high is None else f' to {_count(high)}'})"


def _count(labels: float) -> str:
    """Two digits that mean something, and no more than there are."""
    places = 0 if labels < 100 else 2 - len(str(int(labels)))
    return f"{round(labels, places):,.0f}"
