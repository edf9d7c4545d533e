"""Scores besides accuracy, by budget: macro F1, likelihood, calibration, and single classes.

The likelihood is in nats, all else fractions in [0, 1]. Rows of older studies lack some scores;
budgets without any are left out.
"""

from collections.abc import Sequence

from downstream.results import Row
from downstream.statistics import (
    Interval,
    Scores,
    mean_interval,
    paired_difference,
    share_interval,
)

MEASURES = ("macro_f1", "nll", "ece")
"""Fields of a row that have an interval of their own, besides accuracy."""

ByClass = list[Interval | None]
"""One for each class; None for a class without test images."""


def measure_intervals(rows: Sequence[Row], measure: str) -> dict[int, Interval]:
    """Return the mean of a measure over the rows of one arm, with its interval, by budget."""
    tables: dict[int, dict[tuple[int, int], float]] = {}
    for row in sorted(rows, key=lambda row: row.budget):
        value = getattr(row, measure)
        if value is not None:
            tables.setdefault(row.budget, {})[row.draw, row.seed] = value
    interval = mean_interval if measure == "nll" else share_interval
    return {budget: interval(table) for budget, table in tables.items()}


def class_intervals(rows: Sequence[Row]) -> dict[int, ByClass]:
    """Return the mean accuracy of the rows of one arm in each class, by budget."""
    return {
        budget: [share_interval(table) if table else None for table in tables]
        for budget, tables in _class_tables(rows).items()
    }


def class_differences(rows: Sequence[Row], control: Sequence[Row]) -> dict[int, ByClass]:
    """Return how much better the rows of an arm are than a control's in each class, by budget.

    Over the draws that both have, paired; seeds of the two are independent.
    """
    ours, theirs = _class_tables(rows), _class_tables(control)
    return {
        budget: [
            paired_difference(one, other) if one and other else None
            for one, other in zip(ours[budget], theirs[budget], strict=True)
        ]
        for budget in sorted(ours.keys() & theirs.keys())
    }


def _class_tables(rows: Sequence[Row]) -> dict[int, list[Scores]]:
    """Accuracies by budget, class, and (draw, seed)."""
    found: dict[int, list[Scores]] = {}
    for budget in sorted({row.budget for row in rows}):
        known = {
            (row.draw, row.seed): row.class_accuracies
            for row in rows
            if row.budget == budget and row.class_accuracies is not None
        }
        if known:
            by_class = zip(*known.values(), strict=True)
            found[budget] = [
                {key: value for key, value in zip(known, values, strict=True) if value is not None}
                for values in by_class
            ]
    return found
