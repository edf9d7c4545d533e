"""What stage one left behind, as the report shows it: artifact header, log, pictures.

A run of stage one keeps these beside `encoder.safetensors`; the artifact alone is enough for a
study, so each of them may be missing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from downstream.pretraining_health import pretraining_health
from downstream.report_drawing import NARROW, WIDE, Drawing, count
from downstream.report_style import LIGHT
from models.artifact import ArtifactHeader, artifact_hash, read_artifact
from models.errors import ModelError
from pages.figures import axes_with_margins, new_figure
from training.errors import InputError

_PICTURE = re.compile(r"(?P<name>.+)-(?P<step>\d+)\.png")
_COLORS = [color for role, color in LIGHT.items() if role.startswith("arm-")]
_LINES = ["solid", "dashed", "dotted"]
_LOGARITHMIC_FROM = 5.0
"""Ratio of the largest to the smallest loss from which on the axis is logarithmic."""


@dataclass(frozen=True)
class LossCurve:
    """The steps that logged a loss, in order, and its values."""

    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Pretraining:
    """One encoder and its run.

    Fields:
        path: the artifact, as the study's config names it.
        problem: why header, losses and pictures are left out, in a sentence; None: they are not.
        pictures: the last preview of each name.
        health: how the run went, as pairs of a term and what is said of it; health_problem: why
            there is nothing, in a sentence.
        seconds: wall-clock time of the run as far as it is logged.
    """

    path: Path
    problem: str | None = None
    header: ArtifactHeader | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, LossCurve] = field(default_factory=dict)
    seconds: float | None = None
    pictures: Mapping[str, Path] = field(default_factory=dict)
    health: Sequence[tuple[str, str]] = ()
    health_problem: str | None = None


def read_pretraining(path: Path, *, folder: Path, sha256: str | None) -> Pretraining:
    """Header, log and pictures of an encoder.

    Args:
        path: the artifact as the study's config names it: relative to where the study was run.
        folder: the study's run directory; the artifact is looked for from there upwards too.
        sha256: of the artifact that the study used. The run directory of another file is not this
            encoder's and is left out. None: not known.
    """
    places = [path, *(parent / path for parent in folder.resolve().parents)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return Pretraining(path, f"{path} is no longer there.")
    if sha256 is not None and artifact_hash(file) != sha256:
        return Pretraining(path, f"{path} has been replaced since the study was run.")
    try:
        header = read_artifact(file)
    except ModelError as error:
        return Pretraining(path, f"{error}.")
    lines = _json_lines(file.with_name("log.jsonl"))
    environment = file.with_name("environment.json")
    health, health_problem = _health(file.parent, lines)
    return Pretraining(
        path,
        header=header,
        environment=json.loads(environment.read_text("utf-8")) if environment.exists() else {},
        losses=_losses(lines),
        seconds=max((line["seconds"] for line in lines if "seconds" in line), default=None),
        pictures=_last_pictures(file.with_name("previews")),
        health=health,
        health_problem=health_problem,
    )


def _health(
    folder: Path, lines: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, str]], str | None]:
    if not (folder / "config.yaml").is_file():
        return [], f"How pretraining went is not known: there is no run of it in {folder}."
    try:
        return pretraining_health(folder, lines), None
    except InputError as error:
        return [], f"How pretraining went is not known: {error}."


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file, without a last line that a kill cut in the middle."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, LossCurve]:
    """Every value whose name ends in "loss": phases and monitors do not log at every step."""
    names = dict.fromkeys(name for line in lines for name in line if name.endswith("loss"))
    logged = {name: [line for line in lines if line.get(name) is not None] for name in names}
    return {
        name: LossCurve([line["step"] for line in some], [line[name] for line in some])
        for name, some in logged.items()
        if some
    }


def _last_pictures(folder: Path) -> dict[str, Path]:
    found = [
        (match, path) for path in folder.glob("*.png") if (match := _PICTURE.fullmatch(path.name))
    ]
    found.sort(key=lambda entry: int(entry[0]["step"]))
    return {match["name"]: path for match, path in found}


def loss_drawing(number: int, encoder: Pretraining) -> Drawing | None:
    """Losses of one encoder, by its place among those of the study; None where none is logged."""
    losses = encoder.losses
    if not losses:
        return None
    words = [
        f"{name}: {curve.values[0]:.4g} at step {count(curve.steps[0])}, "
        f"{curve.values[-1]:.4g} at step {count(curve.steps[-1])}"
        for name, curve in losses.items()
    ]
    return Drawing(
        f"losses-{number}",
        lambda narrow: _loss_figure(losses, narrow=narrow),
        "Pretraining loss",
        "; ".join(words) + ".",
    )


def _loss_figure(losses: Mapping[str, LossCurve], *, narrow: bool = False) -> Figure:
    """Losses against the step; made inside `pages.figures.figure_settings`."""
    figure = new_figure(*((NARROW, 230) if narrow else (WIDE, 300)))
    axes = axes_with_margins(figure, 56 if narrow else 72, 14, 52, 12)
    for position, (name, curve) in enumerate(losses.items()):
        axes.plot(
            curve.steps,
            curve.values,
            color=_COLORS[position % len(_COLORS)],
            linestyle=_LINES[position % len(_LINES)],
            linewidth=1.8,
            marker="o" if len(curve.steps) == 1 else None,
            label=name,
        )
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 7, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: count(round(step))))
    every = [value for curve in losses.values() for value in curve.values]
    if min(every) > 0 and max(every) > _LOGARITHMIC_FROM * min(every):
        axes.set_yscale("log")
        axes.set_ylabel("loss (logarithmic)")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylabel("loss")
        axes.yaxis.set_major_locator(MaxNLocator(5))
    if len(losses) > 1:
        axes.legend(frameon=False)
    return figure
