"""A run's folder as others read it: its config, its log, and how it ended.

Shapes: L lines of the log.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml

from training.checkpoints import latest_checkpoint, read_progress
from training.errors import InputError
from training.run_directory import DIVERGED

Values = npt.NDArray[np.float64]
Ending = Literal["finished", "stopped early", "unfinished", "diverged", "no steps"]

POSITIONS = ("step", "images", "seconds")
"""What every line of a log says about when it was written; all else in it are metrics."""


@dataclass(frozen=True)
class Series:
    """One metric of a run at the lines that hold it; all float64 [L], without gaps.

    Attributes:
        values: finite.
        positions: each of `POSITIONS` at the same lines, rising.
    """

    values: Values
    positions: Mapping[str, Values]


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        path: the folder, as it was given.
        config: every value of config.yaml by its dotted key.
        series: metric -> its values, in the order of the log.
        steps, seconds: at the log's last line; 0 without one.
        total_steps: of the whole run, where that is known.
        ending: "stopped early" as its early stopping decided; "unfinished" is stopped or killed
            or running still; "diverged" had a loss that was not finite.
        images_per_second: over the whole log, checkpoints and previews included; None without
            a line.
    """

    path: Path
    config: Mapping[str, Any]
    series: Mapping[str, Series]
    steps: int
    seconds: float
    total_steps: int | None
    ending: Ending
    images_per_second: float | None


def read_run(path: Path) -> Run:
    """Read a run's folder as it is, finished or not; write nothing.

    Raises:
        InputError: the folder is not a run, or its files are damaged; one line.
    """
    config = _read_config(path)
    lines = _read_log(path / "log.jsonl")
    last = lines[-1] if lines else {"step": 0, "images": 0, "seconds": 0.0}
    total = _total_steps(path, config)
    return Run(
        path=path,
        config=_flatten(config),
        series=_series(lines),
        steps=int(last["step"]),
        seconds=float(last["seconds"]),
        total_steps=total,
        ending=_ending(path, lines, total),
        images_per_second=last["images"] / last["seconds"] if last["seconds"] else None,
    )


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    if not file.is_file():
        found = "is not a run: it has no config.yaml" if path.exists() else "there is no such run"
        raise InputError(f"{path}: {found}; give a folder that python -m pretrain wrote")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{file}: is damaged: not a mapping of keys to values; leave this run out")
    return config


def _read_log(file: Path) -> list[dict[str, Any]]:
    """Return the log's lines, without a last one that is being written or was cut by a kill."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            found.append({**values, **{name: float(values[name]) for name in POSITIONS}})
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{file}: line {number} is damaged; remove the line, or leave this run out"
            ) from None
    return found


def _series(lines: list[dict[str, Any]]) -> dict[str, Series]:
    names = dict.fromkeys(name for line in lines for name in line if name not in POSITIONS)
    series = {}
    for name in names:
        held = [line for line in lines if isinstance(line.get(name), int | float)]
        held = [line for line in held if math.isfinite(line[name])]
        if held:
            positions = {key: np.array([line[key] for line in held]) for key in POSITIONS}
            series[name] = Series(np.array([float(line[name]) for line in held]), positions)
    return series


def _total_steps(path: Path, config: Mapping[str, Any]) -> int | None:
    if config.get("steps"):
        return int(config["steps"])
    environment = path / "environment.json"
    if not config.get("epochs") or not environment.exists():
        return None
    data = json.loads(environment.read_text(encoding="utf-8"))["data"]
    return max(1, math.ceil(config["epochs"] * data["images"] / config["batch_size"]))


def _ending(path: Path, lines: list[dict[str, Any]], total: int | None) -> Ending:
    if (path / DIVERGED).exists():
        return "diverged"
    if not lines:
        return "no steps"
    if lines[-1]["step"] == total:
        return "finished"
    return "stopped early" if _stopped_early(path) else "unfinished"


def _stopped_early(path: Path) -> bool:
    try:
        latest = latest_checkpoint(path / "checkpoints")
        return latest is not None and read_progress(latest).stopped_early
    except InputError:  # damaged or of another version: fit to be resumed no more, but to be read
        return False


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
