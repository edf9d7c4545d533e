"""The report's tables on accuracy along the steps of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.report_drawing import count
from downstream.report_style import ArmStyle
from downstream.report_tables import Cell, Line, Table, duration, gain_cell

_MEASURES = (("start", "Start"), ("slope", "Slope"), ("end", "End"))


def training_tables(
    training: Mapping[str, Any], budgets: Sequence[int], styles: Mapping[str, ArmStyle]
) -> list[Table]:
    """Return a table of steps for each accuracy that was asked for, and one of differences."""
    entries = training.get("steps_to_accuracy", [])
    targets = sorted({entry["target"] for entry in entries}, key=lambda target: target or 0.0)
    tables = [_steps([e for e in entries if e["target"] == t], t, budgets, styles) for t in targets]
    return [*tables, _differences(training.get("differences", []), budgets, styles)]


def _steps(
    entries: Sequence[Mapping[str, Any]],
    target: float | None,
    budgets: Sequence[int],
    styles: Mapping[str, ArmStyle],
) -> Table:
    found = {(entry["arm"], entry["budget"]): entry for entry in entries}
    name = "the accuracy that scratch ends with" if target is None else f"{100 * target:.4g} %"
    return Table(
        f"steps-table-{'scratch' if target is None else f'{100 * target:.4g}'.replace('.', '-')}",
        f"Training steps to {name}",
        "Steps until an arm, as it learns from all labels of a budget, is as accurate on some of "
        "the test images: geometric means with 95 % intervals, and about how long they take. "
        "Where not every row comes to it, how many do.",
        "Arm",
        [f"{count(budget)} labels" for budget in budgets],
        [
            Line(style.label, [_needed(found.get((arm, budget))) for budget in budgets], code=arm)
            for arm, style in styles.items()
            if any((arm, budget) in found for budget in budgets)
        ],
    )


def _needed(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("–")
    if entry["steps"] is None:
        return Cell("not all", f"{entry['reached']} of {entry['rows']} rows")
    steps = entry["steps"]
    took = f"about {duration(entry['seconds'])}"
    if steps["low"] is None:
        return Cell(count(round(steps["mean"])), took)
    ends = f"{count(round(steps['low']))} to {count(round(steps['high']))}"
    return Cell(count(round(steps["mean"])), f"{ends}; {took}")


def _differences(
    entries: Sequence[Mapping[str, Any]], budgets: Sequence[int], styles: Mapping[str, ArmStyle]
) -> Table:
    found = {(e["arm"], e["control"], e["measure"], e["budget"]): e["difference"] for e in entries}
    pairs = dict.fromkeys((entry["arm"], entry["control"]) for entry in entries)
    return Table(
        "training-differences-table",
        "Higher start, slope and end along the steps",
        "Differences in points along the steps of training, with draws paired and 95 % intervals: "
        "accuracy at the first point that was scored, gain per tenfold steps from there, and "
        "accuracy at the end, on some of the test images. Bold: the interval excludes zero.",
        "Comparison",
        [f"{count(budget)} labels" for budget in budgets],
        [
            Line(
                f"{word}: {styles[arm].label}",
                [gain_cell(found.get((arm, control, measure, budget))) for budget in budgets],
                below=f"minus {styles[control].label}",
            )
            for arm, control in pairs
            for measure, word in _MEASURES
        ],
    )
