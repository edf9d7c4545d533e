"""The report's page: what its template is filled with.

The template escapes every text; only the figures made here are markup.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from downstream.methods_text import methods
from downstream.report_comparisons import (
    Saving,
    labels_saved_figure,
    themed_differences,
)
from downstream.report_curve import Curve, accuracy_figure, point_tips
from downstream.report_drawing import ThemedFigure, count, themed
from downstream.report_measures import curve_tables
from downstream.report_pretraining import Pretraining, loss_figure
from downstream.report_provenance import commands, configs, identity, versions
from downstream.report_study import StudyFiles, comparisons, curves, savings
from downstream.report_style import DARK, LIGHT
from downstream.report_tables import (
    COST_COLUMNS,
    accuracy_lines,
    cost_lines,
    difference_lines,
    duration,
    saving_lines,
)
from downstream.summary import scores_by_arm
from pages.html import render
from pages.pictures import data_uri

_CONTENTS = (
    ("curve", "Curve"),
    ("labels-saved", "Labels saved"),
    ("accuracy", "Accuracy"),
    ("differences", "Differences"),
    ("whole-curves", "Whole curves"),
    ("cost", "Cost"),
    ("encoder", "Encoder"),
    ("checks", "Checks and notes"),
    ("methods", "Methods"),
    ("provenance", "What was run"),
)
_TIMES = "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}"
_SENTENCE_END = re.compile(r"(?<=\.) +(?=[A-Z])")
_PICTURE_TEXTS = {
    "reconstructions": (
        "Reconstructions of the first training images, three rows at a time: the images, what "
        "the encoder was given, and what the decoder made of its features.",
        "Grid of small images in rows of three kinds: originals, corrupted inputs, "
        "reconstructions.",
    ),
    "filters": (
        "Filters of the encoder’s lowest layer, each scaled by its largest weight. Middle grey "
        "is zero.",
        "Grid of the encoder’s first-layer filters as small grey or coloured squares.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI with its size in pixels."""

    source: str
    width: int
    height: int
    caption: str
    alt: str


def render_page(study: StudyFiles, encoders: Sequence[Pretraining]) -> str:
    """The whole page as HTML."""
    templates = Path(__file__).with_name("templates")
    return render(templates, "report.html.j2", _context(study, encoders))


def _context(study: StudyFiles, encoders: Sequence[Pretraining]) -> dict[str, Any]:
    summary, budgets = study.summary, study.budgets
    arms, compared, saved = curves(study), comparisons(study), savings(study)
    scores: Mapping[Any, Any] = scores_by_arm(study.rows)
    tables = curve_tables(study)
    headline, *rest = _SENTENCE_END.split(summary["verdict"])
    return {
        "light": LIGHT,
        "dark": DARK,
        "contents": [entry for entry in _CONTENTS if tables or entry[0] != "whole-curves"],
        "name": summary["name"],
        "verdict": summary["verdict"],
        "headline": headline,
        "lead": " ".join(rest),
        "facts": _facts(study, encoders),
        "budget_columns": [f"{count(budget)} labels" for budget in budgets],
        "curve": themed(
            "curve",
            lambda narrow: accuracy_figure(list(arms.values()), narrow=narrow),
            "Accuracy against number of labels",
            _curve_in_words(list(arms.values())),
            tips=point_tips(list(arms.values())),
        ),
        "switch_labels": [curve.style.label for curve in arms.values()],
        "arms": [
            (curve.style.label, arm, summary["arm_notes"][arm]) for arm, curve in arms.items()
        ],
        "interval_in_words": _interval_in_words(study),
        "accuracy_lines": accuracy_lines(arms, summary["inference"], scores, budgets),
        "differences": themed_differences(
            compared, "One panel for each comparison; the figures are in the table below."
        ),
        "difference_lines": difference_lines(compared, budgets),
        "saved": _saved_figure(saved[0]) if saved else None,
        "saved_pair": saved[0] if saved else None,
        "saving_lines": saving_lines(saved, budgets),
        "curve_tables": tables,
        "cost_columns": COST_COLUMNS,
        "cost_lines": cost_lines(summary["costs"], study.styles()),
        "encoders": [_encoder(number, encoder) for number, encoder in enumerate(encoders)],
        "leaks": _leaks(summary["leaks"]),
        "notes": summary["notes"],
        "classes": summary["classes"],
        "identity": identity(study, encoders),
        "versions": versions(study, encoders),
        "methods": methods(study.config, study.environment),
        "commands": commands(study, encoders),
        "configs": configs(study, encoders),
        "version": study.environment["underlayer"],
    }


def _saved_figure(saving: Saving) -> ThemedFigure:
    return themed(
        "saved",
        lambda narrow: labels_saved_figure(saving, narrow=narrow),
        "Labels saved at each budget",
        "One bar for each budget; the figures are in the table below.",
    )


def _curve_in_words(arms: Sequence[Curve]) -> str:
    """What a reader who does not see the curve should know at once."""
    parts = []
    for curve in arms:
        first, last = min(curve.intervals), max(curve.intervals)
        text = f"{curve.style.label}: {_percent(curve, first)} with {count(first)} labels"
        if last != first:
            text += f", {_percent(curve, last)} with {count(last)}"
        parts.append(text)
    return "; ".join(parts) + ". All figures are in the table of accuracies."


def _percent(curve: Curve, budget: int) -> str:
    return f"{100 * curve.intervals[budget].mean:.1f} %"


def _interval_in_words(study: StudyFiles) -> str:
    if study.config.draws == 1:
        return "This study has a single draw, so it has no intervals: nothing shows the spread."
    covered = "which images are labelled, and the random numbers of each fit"
    if len(study.environment["encoders"]) > 1:
        return (
            f"It covers {covered}, and the spread between pretraining runs. It does not cover the "
            "choice of test images."
        )
    return (
        f"It covers {covered}. It does not cover the spread between pretraining runs, since there "
        "is one, nor the choice of test images."
    )


def _facts(study: StudyFiles, encoders: Sequence[Pretraining]) -> list[tuple[str, str]]:
    environment = study.environment
    train, test = environment["data"]["train"], environment["data"]["test"]
    pretrained = environment["encoders"]
    seconds = [encoder.seconds for encoder in encoders if encoder.seconds is not None]
    facts = [
        ("Images", train["dataset"] or "unnamed"),
        ("Classes", count(len(study.summary["classes"]))),
        ("Pretrained on", f"{count(pretrained[0]['trained_on']['images'])} images"),
        ("Tested on", f"{count(test['images'])} images"),
        ("Draws", count(study.config.draws)),
        ("Pretraining runs", count(len(pretrained))),
    ]
    if seconds:
        each = " each" if len(seconds) > 1 else ""
        facts.append(("Pretraining took", duration(sum(seconds) / len(seconds)) + each))
    return facts


def _encoder(number: int, encoder: Pretraining) -> dict[str, Any]:
    losses = encoder.losses
    return {
        "path": str(encoder.path),
        "problem": encoder.problem,
        "pictures": [_picture(name, path) for name, path in sorted(encoder.pictures.items())][::-1],
        "losses": losses
        and themed(
            f"losses-{number}",
            lambda narrow: loss_figure(losses, narrow=narrow),
            "Pretraining loss",
            "; ".join(
                f"{name}: {curve.values[0]:.4g} at step {count(curve.steps[0])}, "
                f"{curve.values[-1]:.4g} at step {count(curve.steps[-1])}"
                for name, curve in losses.items()
            )
            + ".",
        ),
        "stages": [
            (stage.name, _TIMES.join(map(str, stage.shape))) for stage in encoder.header.stages
        ]
        if encoder.header
        else [],
    }


def _picture(name: str, path: Path) -> Picture:
    content = path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
    caption, alt = _PICTURE_TEXTS.get(name, (f"Preview “{name}”.", f"Grid of images: {name}."))
    return Picture(data_uri(content), width, height, caption, alt)


def _leaks(leaks: Mapping[str, Any]) -> list[tuple[str, str]]:
    unchecked = leaks["pretraining"] is None
    return [
        ("Test images compared", count(leaks["checked"])),
        ("Also among the labelled training images", count(leaks["train"])),
        (
            "Also among the images of pretraining",
            "not checked" if unchecked else count(leaks["pretraining"]),
        ),
        ("Repeats of an earlier test image", count(leaks["within_test"])),
    ]
