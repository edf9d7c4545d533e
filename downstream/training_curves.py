"""Accuracy along the steps of training: a higher start, slope or end, and steps to an accuracy.

Torrey & Shavlik (2010), "Transfer learning". Accuracies are fractions in [0, 1], on the test images
on which rows are scored along their steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from downstream.arms import Arm
from downstream.config import CurveConfig
from downstream.plan import arms_in_order
from downstream.results import Row
from downstream.statistics import Difference, Interval, mean_interval, paired_difference

TrainingMeasure = Literal["start", "slope", "end"]
TRAINING_MEASURES: tuple[TrainingMeasure, ...] = get_args(TrainingMeasure)
"""Of a row: accuracy at the first point, gain per tenfold steps from there, accuracy at the end."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class TrainingCurve:
    """The measures of an arm at a budget, means over its rows."""

    arm: Arm
    budget: int
    measures: Mapping[TrainingMeasure, Interval]


@dataclass(frozen=True)
class TrainingDifference:
    """A measure of an arm minus that of its control, paired by draw."""

    arm: Arm
    control: Arm
    budget: int
    measure: TrainingMeasure
    difference: Difference


@dataclass(frozen=True)
class StepsToAccuracy:
    """How long an arm trains until it is as accurate as asked for.

    Fields:
        target: the accuracy; None: that with which the control ends in the same draw.
        reached, rows: how many rows come to it, of how many.
        steps: geometric mean with its interval; None unless all rows come to it.
        seconds: about how long so many steps take, from the time of whole rows; likewise.
    """

    arm: Arm
    budget: int
    target: float | None
    reached: int
    rows: int
    steps: Interval | None
    seconds: float | None


def training_curves(rows: Sequence[Row]) -> list[TrainingCurve]:
    """Return the measures of every arm and budget whose rows were scored along their steps."""
    found = []
    for arm, budget, own in _groups(rows):
        measures = {
            measure: mean_interval({_cell(row): _measure(measure, _points(row)) for row in own})
            for measure in TRAINING_MEASURES
        }
        found.append(TrainingCurve(arm, budget, measures))
    return found


def training_differences(
    rows: Sequence[Row], pairs: Sequence[tuple[Arm, Arm]]
) -> list[TrainingDifference]:
    """Return how pairs of arm and control differ, where both were scored along their steps."""
    groups = {(arm, budget): own for arm, budget, own in _groups(rows)}
    found = []
    for arm, control in pairs:
        for budget in sorted({b for a, b in groups if a == arm}):
            if (control, budget) not in groups:
                continue
            for measure in TRAINING_MEASURES:
                ours, theirs = (
                    {_cell(row): _measure(measure, _points(row)) for row in groups[name, budget]}
                    for name in (arm, control)
                )
                difference = paired_difference(ours, theirs)
                if difference is not None:
                    found.append(TrainingDifference(arm, control, budget, measure, difference))
    return found


def steps_to_accuracy(
    rows: Sequence[Row], config: CurveConfig, targets: Sequence[float], control: Arm = "scratch"
) -> list[StepsToAccuracy]:
    """Return how many steps each arm needs for the targets, and for what the control ends with."""
    groups = _groups(rows)
    ends: dict[tuple[int, int], list[float]] = {}
    for arm, budget, own in groups:
        for row in own if arm == control else ():
            ends.setdefault((budget, row.draw), []).append(_points(row)[-1][1])
    found = []
    for arm, budget, own in groups:
        for target in (None, *targets):
            wanted = {
                _cell(row): float(np.mean(ends[budget, row.draw])) if target is None else target
                for row in own
                if target is not None or (budget, row.draw) in ends
            }
            if wanted:
                compared = [row for row in own if _cell(row) in wanted]
                found.append(_steps_to(arm, budget, target, compared, wanted, config))
    return found


def _steps_to(
    arm: Arm,
    budget: int,
    target: float | None,
    rows: Sequence[Row],
    wanted: Mapping[tuple[int, int], float],
    config: CurveConfig,
) -> StepsToAccuracy:
    needed = {_cell(row): _first_at(_points(row), wanted[_cell(row)]) for row in rows}
    reached = {cell: steps for cell, steps in needed.items() if steps is not None}
    if len(reached) < len(rows):
        return StepsToAccuracy(arm, budget, target, len(reached), len(rows), None, None)
    logs = mean_interval({cell: math.log(steps) for cell, steps in reached.items()})
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    steps = Interval(math.exp(logs.mean), low, high, logs.n, logs.seeds)
    seconds = [reached[_cell(row)] * _seconds_per_step(row, config) for row in rows]
    mean = float(np.mean(seconds))
    return StepsToAccuracy(arm, budget, target, len(reached), len(rows), steps, mean)


def _first_at(points: Points, accuracy: float) -> float | None:
    """The first step at which a curve, linear between its points, is as accurate; None: never."""
    before: tuple[int, float] | None = None
    for steps, found in points:
        if found >= accuracy:
            if before is None or before[1] >= accuracy:
                return float(steps)
            share = (accuracy - before[1]) / (found - before[1])
            return before[0] + share * (steps - before[0])
        before = (steps, found)
    return None


def _seconds_per_step(row: Row, config: CurveConfig) -> float:
    """A row's time is that of all its trials, shared by the images that they were trained on."""
    settings = config.fit_of(row.arm)
    chosen = row.choices["recipe"]
    trial = chosen["trial"] if isinstance(chosen, dict) else 0
    return float(row.seconds / row.choices["images"] * settings.recipes()[trial].batch_size)


def _measure(measure: TrainingMeasure, points: Points) -> float:
    (first, start), (last, end) = points[0], points[-1]
    match measure:
        case "start":
            return start
        case "end":
            return end
        case "slope":
            return (end - start) / math.log10(last / first) if last > first else 0.0


def _groups(rows: Sequence[Row]) -> list[tuple[Arm, int, list[Row]]]:
    """Rows that were scored along their steps, by arm and budget."""
    scored = [row for row in rows if row.along]
    return [
        (arm, budget, own)
        for arm in arms_in_order(row.arm for row in scored)
        for budget in sorted({row.budget for row in scored})
        if (own := [row for row in scored if (row.arm, row.budget) == (arm, budget)])
    ]


def _cell(row: Row) -> tuple[int, int]:
    return row.draw, row.seed


def _points(row: Row) -> Points:
    assert row.along
    return row.along
