"""How a pretraining run went, in a few lines: its end, its losses, its probe, its health."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.health import complaints
from training.run_directory import DIVERGED
from training.run_reading import Run, Series, read_run

_MOST_COMPLAINTS = 4
_HELD_OUT = "held_out/"
_GAN_HEALTH = "health.json"


def pretraining_health(folder: Path, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what is known of the run in a folder, as pairs of a term and what is said of it.

    Args:
        lines: of its log.
    Raises:
        InputError: the folder is not a run, or its files are damaged; one line.
    """
    run = read_run(folder)
    found = [("Steps", _steps(run))]
    losses = {name: series for name, series in run.series.items() if name.endswith("loss")}
    found += [
        (_in_words(name), _least(series) if name.startswith(_HELD_OUT) else _ends(series))
        for name, series in losses.items()
    ]
    if probe := run.series.get("probe_accuracy"):
        first, last = (f"{100 * probe.values[place]:.1f} %" for place in (0, -1))
        found.append(("Probe accuracy", f"{first} at first, {last} at last"))
    if any(name.startswith("health/") for name in run.series):
        found.append(("Gradients and activations", _signals(lines)))
    if (folder / _GAN_HEALTH).is_file():
        health = json.loads((folder / _GAN_HEALTH).read_text(encoding="utf-8"))
        found.append(("Verdict on the GAN", f"{health['verdict']}: {health['reason']}"))
    return found


def _in_words(name: str) -> str:
    """A loss as it is logged, such as "held_out/generator/loss", as "Held-out loss, generator"."""
    kind = "Held-out loss" if name.startswith(_HELD_OUT) else "Loss"
    whose = name.removeprefix(_HELD_OUT).removesuffix("loss").strip("/_")
    return f"{kind}, {whose}" if whose else kind


def _steps(run: Run) -> str:
    steps = f"{run.steps:,} of {run.total_steps:,}" if run.total_steps else f"{run.steps:,}"
    if run.ending == "diverged":
        said = (run.path / DIVERGED).read_text(encoding="utf-8").strip()
        return f"{steps}; diverged: {said}"
    return f"{steps}, {run.ending}"


def _ends(series: Series) -> str:
    return f"{series.values[0]:.4g} at first, {series.values[-1]:.4g} at last"


def _least(series: Series) -> str:
    step = series.positions["step"][series.values.argmin()]
    return f"{_ends(series)}; least {series.values.min():.4g} at step {round(step):,}"


def _signals(lines: Sequence[Mapping[str, Any]]) -> str:
    """The first warning of each signal and stage, or that there was none."""
    names = {name for line in lines for name in line if name.rpartition("/")[2] == "lr"}
    rates = {name: max(line.get(name) or 0.0 for line in lines) for name in names}
    first: dict[tuple[str, str], str] = {}
    measured = 0
    for line in lines:
        values = {n: v for n, v in line.items() if n.startswith("health/") and v is not None}
        measured += bool(values)
        factors = [line[name] / most for name, most in rates.items() if most and line.get(name)]
        for key, said in complaints(values, min(factors, default=1.0)):
            first.setdefault(key, f"{said} (step {line['step']:,})")
    if not first:
        return f"measured {measured} times, never out of the usual range"
    more = len(first) - _MOST_COMPLAINTS
    shown = [*list(first.values())[:_MOST_COMPLAINTS], *([f"{more} more"] if more > 0 else [])]
    return "; ".join(shown)
