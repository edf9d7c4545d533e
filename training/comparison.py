"""Several runs side by side: their order by a metric, and what differs between their configs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import InputError
from training.metric_tracking import Mode, MovingAverage, check_metric
from training.run_reading import Run, Series, Values, read_run

# A moving average over about this share of a run's lines: what noise hides in it, not the course.
_SMOOTHING_SHARE = 1 / 40
_FINAL_SHARE = 1 / 10
_OUT_OF_THE_RACE = ("diverged", "no steps")
# They say where a run lies and how it was watched, not what it did.
_IGNORED = ("name", "runs_dir", "log", "checkpoint", "preview", "health", "profile")


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes:
        label: its folder's name, or its path where another run's folder is called the same.
        final: mean of the metric over the last tenth of its lines; None where it has none.
        best: the best value of the smoothed metric, and the step of it.
    """

    label: str
    run: Run
    final: float | None
    best: tuple[float, int] | None


@dataclass(frozen=True)
class Comparison:
    """Runs compared by a metric.

    Attributes:
        metric: what they are ranked by.
        mode: whether lower or higher values are better.
        entries: best final value first; then those without one, and those that diverged.
        differing: dotted config key -> the value of each entry, in their order; None where a run
            has no such key. Only keys whose values are not all the same.
        metrics: all metrics of all runs, in the order of the logs.
        note: a sentence on what the ranking may be used for; "": none.
    """

    metric: str
    mode: Mode
    entries: Sequence[Entry]
    differing: Mapping[str, Sequence[Any]]
    metrics: Sequence[str]
    note: str = ""


def compare_runs(
    paths: Sequence[Path], *, metric: str | None = None, mode: Mode = "min"
) -> Comparison:
    """Read runs and compare them.

    Args:
        paths: the runs' folders; a folder that is given twice counts once.
        metric: what to rank by, as it is logged; None: the loss, or the first one of several.
        mode: whether lower or higher values are better.
    Raises:
        InputError: a folder is not a run, no run has taken a step, or none logs the metric.
    """
    runs = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    metrics = list(dict.fromkeys(name for run in runs for name in run.series))
    if not metrics:
        raise InputError(f"{runs[0].path}: no step is logged here, nor in any other run given")
    if metric is None:
        metric = next((name for name in metrics if name.endswith("loss")), metrics[0])
    check_metric(metric, metrics, "--metric")
    entries = [
        _entry(run, label, metric, mode) for run, label in zip(runs, _labels(runs), strict=True)
    ]
    entries.sort(key=lambda entry: _rank(entry, mode))
    return Comparison(metric, mode, entries, _differing([e.run for e in entries]), metrics)


def smooth(values: Values) -> Values:
    """Return the moving average of values float64 [L] over about a fortieth of them, [L]."""
    window = max(1.0, _SMOOTHING_SHARE * len(values))
    average = MovingAverage(1 - 1 / window)
    return np.array([average.update(float(value)) for value in values])


def _labels(runs: Sequence[Run]) -> list[str]:
    names = [run.path.resolve().name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]


def _entry(run: Run, label: str, metric: str, mode: Mode) -> Entry:
    if (series := run.series.get(metric)) is None:
        return Entry(label, run, None, None)
    last = max(1, round(_FINAL_SHARE * len(series.values)))
    final = float(series.values[-last:].mean())
    return Entry(label, run, final, _best(series, mode))


def _best(series: Series, mode: Mode) -> tuple[float, int]:
    smoothed = smooth(series.values)
    place = int(smoothed.argmin() if mode == "min" else smoothed.argmax())
    return float(smoothed[place]), int(series.positions["step"][place])


def _rank(entry: Entry, mode: Mode) -> tuple[bool, float]:
    if entry.final is None:
        return True, math.inf
    worth = entry.final if mode == "min" else -entry.final
    return entry.run.ending in _OUT_OF_THE_RACE, worth


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in runs for key in run.config)
    found = {}
    for key in keys:
        values = [run.config.get(key) for run in runs]
        if key.split(".")[0] not in _IGNORED and any(value != values[0] for value in values):
            found[key] = values
    return found
