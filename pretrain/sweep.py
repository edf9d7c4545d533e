"""Sweeps: every combination of some values of a config, each a run of its own, on one ranked page.

Unlike a race of named variants a sweep is written on the command line.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.config import PretrainConfig
from training.comparison import Comparison, compare_runs
from training.config import load_config, parse_override
from training.errors import InputError
from training.metric_tracking import Mode
from training.race import RaceConfig
from training.run_reading import read_run

_ACCURACY = "probe_accuracy"
_LOSS = "held_out/loss"
_PROBE_NOTE = (
    "Ranked by the probe, which is for monitoring: where it chooses what is reported, its labels "
    "count among the labels of the report."
)
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        race: every combination as a variant.
        metric: what to rank by, as it is logged.
        mode: whether lower or higher values of it are better.
    """

    race: RaceConfig
    metric: str
    mode: Mode

    def runs(self) -> list[Path]:
        """Return the folders of those runs that exist."""
        paths = [Path(self.race.runs_dir, name) for name in self.race.runs()]
        return [path for path in paths if (path / "config.yaml").is_file()]


def plan_sweep(path: str, arguments: Sequence[str], *, metric: str | None) -> Sweep:
    """Return the sweep of a config.

    Args:
        path: YAML file of a pretraining run; the runs lie in runs_dir/NAME-sweep.
        arguments: key=[value, ...] are the grid's axes; any other key=value holds in all runs.
        metric: what to rank by; None: the loss on images held out, where the config holds some
            out, else the accuracy of the probe. probe_accuracy ranks by the highest value, any
            other metric by the lowest.
    Raises:
        InputError: no axis, nothing to rank by, or a combination that is no config; one line.
    """
    axes, common = _split(arguments)
    if not axes:
        raise InputError(
            "sweep: found no values to choose from; give at least one key=[value, ...], such as "
            "'optimizer.lr=[0.001, 0.01]'"
        )
    base = load_config(PretrainConfig, path, common)
    race = RaceConfig(
        base=path,
        runs_dir=str(Path(base.runs_dir, f"{base.name}-sweep")),
        overrides=tuple(common),
        variants=_variants(axes),
    )
    race.check(PretrainConfig, source=f"sweep of {path}")
    metric = metric or _default_metric(base, path)
    return Sweep(race, metric, "max" if metric == _ACCURACY else "min")


def rank_sweep(sweep: Sweep) -> Comparison:
    """Read the sweep's runs, finished or not, and rank them.

    Raises:
        InputError: there is none, or none logs the metric; one line.
    """
    runs = sweep.runs()
    if not runs:
        raise InputError(
            f"{sweep.race.runs_dir}: no run of this sweep has begun; its .NAME.txt say why"
        )
    comparison = compare_runs(runs, metric=_logged(sweep.metric, runs), mode=sweep.mode)
    return replace(comparison, note=_PROBE_NOTE if sweep.metric == _ACCURACY else "")


def _logged(metric: str, runs: Sequence[Path]) -> str:
    """Return the metric's name in the runs: of several phases the first one's loss."""
    names = [name for run in runs for name in read_run(run).series]
    if metric == _LOSS and metric not in names:
        held_out = [n for n in names if n.startswith("held_out/") and n.endswith("/loss")]
        return next(iter(held_out), metric)
    return metric


def _split(arguments: Sequence[str]) -> tuple[dict[str, list[object]], list[str]]:
    axes: dict[str, list[object]] = {}
    common = []
    for argument in arguments:
        keys, value = parse_override(argument)
        key = ".".join(keys)
        if not isinstance(value, list):
            common.append(argument)
            continue
        if not value or key in axes:
            found = "no value" if not value else "the key twice"
            raise InputError(f"sweep: {key}: found {found}; give it once, with its values")
        axes[key] = value
    return axes, common


def _variants(axes: Mapping[str, Sequence[object]]) -> dict[str, tuple[str, ...]]:
    variants: dict[str, tuple[str, ...]] = {}
    last_parts = [key.split(".")[-1] for key in axes]
    words = [
        last if last_parts.count(last) == 1 else key
        for key, last in zip(axes, last_parts, strict=True)
    ]
    for values in itertools.product(*axes.values()):
        overrides = tuple(
            f"{key}={json.dumps(value)}" for key, value in zip(axes, values, strict=True)
        )
        if overrides in variants.values():
            raise InputError(f"sweep: found {', '.join(overrides)} twice; give every value once")
        name = "_".join(f"{word}-{_text(value)}" for word, value in zip(words, values, strict=True))
        if name in variants or len(name) > _LONGEST_NAME:
            digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
            name = f"{name[: _LONGEST_NAME - 9]}-{digest}"
        variants[name] = overrides
    return variants


def _text(value: object) -> str:
    if isinstance(value, int | float):
        return json.dumps(value).replace("+", "")
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _default_metric(base: PretrainConfig, path: str) -> str:
    if base.data.held_out > 0:
        return _LOSS
    if base.probe.shards is not None:
        return _ACCURACY
    raise InputError(
        f"{path}: found neither data.held_out nor probe.shards to rank by; give data.held_out=0.1, "
        "or --metric loss for the training loss"
    )
