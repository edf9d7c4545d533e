"""The report's tables as rows of text, ready for the page.

Accuracies and their differences are fractions in [0, 1]; the tables give percent and percentage
points. "Clear" means that a 95 % interval excludes zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downstream.arms import is_pretrained
from downstream.labels_saved import LabelsSaved
from downstream.report_comparisons import Comparison, Saving
from downstream.report_curve import Curve
from downstream.report_drawing import count, signed
from downstream.report_style import ArmStyle
from downstream.resampled_curves import Bounds
from downstream.statistics import Difference, Interval, Scores, paired_difference
from training.console import format_seconds

NO_INTERVAL = "no interval"
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Cell:
    """A figure, what stands in small type below it, and whether it stands out."""

    text: str
    below: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table: its header with a code name or words below it, and its cells."""

    header: str
    cells: Sequence[Cell]
    code: str = ""
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table with what its template needs to name it."""

    id: str
    heading: str
    caption: str
    corner: str
    columns: Sequence[str]
    lines: Sequence[Line]


def accuracy_lines(
    arms: Mapping[str, Curve],
    inference: Mapping[str, str],
    scores: Mapping[str, Mapping[int, Scores]],
    budgets: Sequence[int],
) -> list[Line]:
    """Mean accuracy and interval of each arm, and whether it is inductive or transductive.

    The best of a budget is strong where it is clear.
    """
    winners = {budget: clear_winner(scores, budget) for budget in budgets}
    return [
        Line(
            curve.style.label,
            [
                _accuracy_cell(curve.intervals.get(budget), strong=winners[budget] == arm)
                for budget in budgets
            ],
            code=arm,
            below=inference[arm],
        )
        for arm, curve in arms.items()
    ]


def _accuracy_cell(interval: Interval | None, *, strong: bool) -> Cell:
    if interval is None:
        return Cell("not run")
    return value_cell(interval.mean, interval.low, interval.high, percent, strong=strong)


def value_cell(
    value: float,
    low: float | None,
    high: float | None,
    show: Callable[[float], str],
    *,
    strong: bool = False,
) -> Cell:
    """A value with its interval below it, or in words that there is none."""
    if low is None or high is None:
        return Cell(show(value), NO_INTERVAL, strong)
    return Cell(show(value), f"{show(low)} to {show(high)}", strong)


def gain_cell(entry: Mapping[str, Any] | None) -> Cell:
    """A difference of accuracies in points, strong where its interval excludes zero."""
    if entry is None:
        return Cell("–")
    low, high = entry["low"], entry["high"]
    clear = low is not None and (low > 0 or high < 0)
    return value_cell(entry["mean"], low, high, points, strong=clear)


def percent(share: float) -> str:
    """A share in percent, to one decimal."""
    return f"{100 * share:.1f}"


def clear_winner(scores: Mapping[str, Mapping[int, Scores]], budget: int) -> str | None:
    """The arm whose paired difference to each other arm is clearly positive, if there is one."""
    arms = [arm for arm in scores if budget in scores[arm]]
    for arm in arms:
        others = [other for other in arms if other != arm]
        paired = [
            paired_difference(
                scores[arm][budget],
                scores[other][budget],
                same_seeds=is_pretrained(arm) and is_pretrained(other),
            )
            for other in others
        ]
        if others and all(found is not None and found.sign > 0 for found in paired):
            return arm
    return None


def difference_lines(comparisons: Sequence[Comparison], budgets: Sequence[int]) -> list[Line]:
    """Paired differences with intervals and p values; strong where they are clear."""
    return [
        Line(
            comparison.style.label,
            [_difference_cell(comparison.intervals.get(budget)) for budget in budgets],
            below=f"minus {comparison.control.label}",
        )
        for comparison in comparisons
    ]


def _difference_cell(interval: Difference | None) -> Cell:
    if interval is None:
        return Cell("not run")
    if interval.low is None or interval.high is None:
        return Cell(points(interval.mean), NO_INTERVAL)
    return Cell(
        points(interval.mean),
        f"{points(interval.low)} to {points(interval.high)}{_p_values(interval)}",
        strong=interval.sign != 0,
    )


def _p_values(difference: Difference) -> str:
    if difference.p is None or difference.p_holm is None:
        return ""
    words = (f"p {_p_value(difference.p)}", f"Holm {_p_value(difference.p_holm)}")
    return "; " + ", ".join(word.replace(" ", "\N{NO-BREAK SPACE}") for word in words)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of accuracies in percentage points with its sign, to one decimal or more."""
    return f"{round(100 * difference, digits) + 0.0:+.{digits}f}".replace("-", "−")


def saving_lines(savings: Sequence[Saving], budgets: Sequence[int]) -> list[Line]:
    """Labels saved and labels needed, in words where they are bounds."""
    return [
        Line(
            saving.style.label,
            [_saving_cell(_at(saving.budgets, budget)) for budget in budgets],
            below=f"against {saving.control.label}",
        )
        for saving in savings
    ]


def _at(entries: Sequence[LabelsSaved], budget: int) -> LabelsSaved | None:
    return next((entry for entry in entries if entry.budget == budget), None)


def _saving_cell(entry: LabelsSaved | None) -> Cell:
    if entry is None:
        return Cell("not run")
    saved, needed = signed(round(entry.saved)), count(round(entry.labels_needed))
    ends = "" if entry.interval is None else f"; {interval_in_labels(entry.interval)}"
    match entry.flag:
        case "never_reached":
            return Cell(f"at least {saved}", f"never reached: over {needed}{ends}")
        case "below_start":
            return Cell(f"at most {saved}", f"reached with {needed}, the fewest tried{ends}")
        case "crosses":
            return Cell(saved, f"needs {needed}; curves crossed{ends}")
        case None:
            return Cell(saved, f"needs {needed}{ends}")


def interval_in_labels(interval: Bounds) -> str:
    """Such as "150 to 290"; in words where an end is beyond what was measured."""
    low, high = (None if end is None else _labels(end) for end in (interval.low, interval.high))
    if low is None:
        return "not bounded" if high is None else f"up to {high}"
    return f"{low} or more" if high is None else f"{low} to {high}"


def _labels(number: float) -> str:
    return f"{round(number):,}".replace("-", "−")


COST_COLUMNS = ("Classifiers", "Time in all", "Time for each", "Images trained on", "Operations")


def cost_lines(costs: Mapping[str, Any], styles: Mapping[str, ArmStyle]) -> list[Line]:
    """What pretraining and each arm took; "–" where a figure does not apply or is not known."""
    lines = [
        Line("pretraining", _cost_cells(entry), code=entry["artifact"])
        for entry in costs["pretraining"]
    ]
    lines += [
        Line(style.label, _cost_cells(costs["arms"][arm]), code=arm)
        for arm, style in styles.items()
    ]
    return lines


def _cost_cells(cost: Mapping[str, Any]) -> list[Cell]:
    seconds, rows = cost.get("seconds"), cost.get("rows")
    images, flops = cost.get("images"), cost.get("flops")
    return [
        Cell("–" if rows is None else count(rows)),
        Cell("–" if seconds is None else duration(seconds)),
        Cell("–" if seconds is None or not rows else duration(seconds / rows)),
        Cell("–" if images is None else count(images)),
        Cell("–" if flops is None else _power_of_ten(flops)),
    ]


def duration(seconds: float) -> str:
    """A duration as people say it, with a decimal below ten seconds."""
    return format_seconds(seconds) if seconds >= 10 else f"{seconds:.1f} s"


def _power_of_ten(number: float) -> str:
    """Such as "1.3 × 10¹³"."""
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
