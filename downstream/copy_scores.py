"""Accuracy with and without the test images that have a copy among the images learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

from downstream.plan import arms_in_order
from downstream.results import Row
from downstream.statistics import Interval, mean_interval


@dataclass(frozen=True)
class CopyScores:
    """Of an arm at a budget: mean accuracies, fractions in [0, 1], and the first minus the second.

    Fields:
        with_copies: on all test images; without_copies: on those that have no copy.
        difference: paired by classifier.
    """

    arm: str
    budget: int
    with_copies: Interval
    without_copies: Interval
    difference: Interval


def copy_scores(rows: Sequence[Row]) -> list[CopyScores]:
    """Return both accuracies wherever rows have them, by arm and budget; none without copies."""
    found = []
    for arm in arms_in_order(row.arm for row in rows):
        for budget in sorted({row.budget for row in rows if row.arm == arm}):
            own = [row for row in rows if (row.arm, row.budget) == (arm, budget)]
            both = {(row.draw, row.seed): pair for row in own if (pair := _both(row)) is not None}
            if both:
                found.append(
                    CopyScores(
                        arm,
                        budget,
                        mean_interval({key: pair[0] for key, pair in both.items()}),
                        mean_interval({key: pair[1] for key, pair in both.items()}),
                        mean_interval({key: pair[0] - pair[1] for key, pair in both.items()}),
                    )
                )
    return found


def _both(row: Row) -> tuple[float, float] | None:
    if row.with_copies is not None:
        return row.with_copies, row.accuracy
    if row.without_copies is not None:
        return row.accuracy, row.without_copies
    return None
