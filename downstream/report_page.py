"""The report's page: what its template is filled with.

The template escapes every text; only the figures made here are markup.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from downstream.audit_file import StudyAuditReport
from downstream.config import CurveConfig
from downstream.gallery import Gallery, has_pretrained_arm
from downstream.methods_text import methods
from downstream.report_classes import class_table
from downstream.report_copies import copy_counts, copy_table
from downstream.report_depth import depth_table
from downstream.report_drawing import Drawing, ThemedFigure, count
from downstream.report_gallery import asked_thumbnails, mistake_thumbnails, same_class
from downstream.report_measures import curve_tables
from downstream.report_pretraining import Pretraining
from downstream.report_provenance import commands, configs, identity, versions
from downstream.report_scores import score_tables
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
from downstream.report_worth import cost_sentence, worth_sentences, worth_table
from downstream.source_labels import study_source_labels
from downstream.summary import scores_by_arm
from pages.html import render
from pages.pictures import data_uri

_CONTENTS = (
    ("curve", "Curve"),
    ("labels-saved", "Labels saved"),
    ("accuracy", "Accuracy"),
    ("classes", "Classes"),
    ("differences", "Differences"),
    ("depth", "Depth"),
    ("whole-curves", "Whole curves"),
    ("cost", "Cost"),
    ("worth", "Worth"),
    ("encoder", "Encoder"),
    ("images", "Images"),
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
    "samples": (
        "Images that the run generates, from random numbers that stay the same.",
        "Grid of generated images.",
    ),
    "interpolations": (
        "Generated images on the way from one latent code to another, a way in each row.",
        "Grid of generated images, each row a gradual change from one to another.",
    ),
    "neighbours": (
        "Two rows at a time: generated images, and the training image nearest to each by its "
        "pixels. Copies would look alike.",
        "Grid of small images in rows of two kinds: generated, and nearest training images.",
    ),
    "real_and_generated": (
        "Two rows at a time: training images, and generated ones.",
        "Grid of small images in rows of two kinds: training images, and generated ones.",
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


def render_page(
    study: StudyFiles,
    encoders: Sequence[Pretraining],
    gallery: Gallery | None,
    audit: StudyAuditReport | None,
    drawings: Mapping[str, Drawing],
) -> str:
    """The whole page as HTML.

    Args:
        audit: what audit.json holds, for its pictures.
        drawings: as `report_drawings` gives them.
    """
    figures = {name: drawing.themed() for name, drawing in drawings.items()}
    templates = Path(__file__).with_name("templates")
    return render(templates, "report.html.j2", _context(study, encoders, gallery, audit, figures))


def _context(
    study: StudyFiles,
    encoders: Sequence[Pretraining],
    gallery: Gallery | None,
    audit: StudyAuditReport | None,
    figures: Mapping[str, ThemedFigure],
) -> dict[str, Any]:
    summary, budgets = study.summary, study.budgets
    arms, compared, saved = curves(study), comparisons(study), savings(study)
    scores: Mapping[Any, Any] = scores_by_arm(study.rows)
    tables, by_class = curve_tables(study), class_table(study)
    worth = worth_table(study)
    there = {
        "whole-curves": bool(tables),
        "depth": "depth" in figures,
        "classes": by_class is not None or "classes" in figures,
        "worth": worth is not None,
    }
    headline, *rest = _SENTENCE_END.split(summary["verdict"])
    headline, _, elsewhere = headline.partition("; ")
    if elsewhere:
        headline, rest = f"{headline}.", [f"{elsewhere[0].upper()}{elsewhere[1:]}", *rest]
    return {
        "light": LIGHT,
        "dark": DARK,
        "contents": [entry for entry in _CONTENTS if there.get(entry[0], True)],
        "name": summary["name"],
        "verdict": summary["verdict"],
        "headline": headline,
        "lead": " ".join(rest),
        "facts": _facts(study, encoders),
        "budget_columns": [f"{count(budget)} labels" for budget in budgets],
        "curve": figures["curve"],
        "switch_labels": [style.label for style in study.figure_styles().values()],
        "arms": [
            (curve.style.label, arm, summary["arm_notes"][arm]) for arm, curve in arms.items()
        ],
        "interval_in_words": _interval_in_words(study),
        "accuracy_lines": accuracy_lines(arms, summary["inference"], scores, budgets),
        "score_tables": score_tables(study),
        "classes_figure": figures.get("classes"),
        "classes_table": by_class,
        "differences": figures.get("differences"),
        "difference_lines": difference_lines(compared, budgets),
        "saved": figures.get("saved"),
        "saved_pair": saved[0] if saved else None,
        "saving_lines": saving_lines(saved, budgets),
        "depth_figure": figures.get("depth"),
        "depth_table": depth_table(study),
        "curve_tables": tables,
        "cost_sentence": cost_sentence(study),
        "worth_sentences": worth_sentences(study),
        "worth_table": worth,
        "cost_columns": COST_COLUMNS,
        "cost_lines": cost_lines(summary["costs"], study.styles()),
        "encoders": [
            _encoder(number, encoder, figures.get(f"losses-{number}"))
            for number, encoder in enumerate(encoders)
        ],
        "embedding": figures.get("embedding"),
        "gallery": gallery and _gallery(gallery, summary["classes"], len(encoders)),
        "no_gallery": _no_gallery(study),
        "warnings": summary.get("warnings", []),
        "copy_counts": copy_counts(summary),
        "copies_removed": study.config.data.remove_copies,
        "copies_shown": [] if audit is None else audit.shown,
        "copies_table": copy_table(study),
        "notes": summary["notes"],
        "classes": summary["classes"],
        "identity": identity(study, encoders),
        "versions": versions(study, encoders),
        "methods": methods(
            study.config, study.environment, encoders[0].header if encoders else None
        ),
        "commands": commands(study, encoders),
        "configs": configs(study, encoders),
        "version": study.environment["underlayer"],
    }


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
    removed = environment["audit"]["test_images"] if study.config.data.remove_copies else 0
    pretrained = environment["encoders"]
    told = study_source_labels(environment)
    seconds = [encoder.seconds for encoder in encoders if encoder.seconds is not None]
    facts = [
        ("Images", train["dataset"] or "unnamed"),
        ("Classes", count(len(study.summary["classes"]))),
        ("Pretrained on", f"{count(pretrained[0]['trained_on']['images'])} images"),
        *([] if told is None else [("Labels of pretraining", count(told.count))]),
        ("Tested on", f"{count(test['images'] - removed)} images"),
        ("Draws", _draws(study.config)),
        ("Pretraining runs", count(len(pretrained))),
    ]
    if seconds:
        each = " each" if len(seconds) > 1 else ""
        facts.append(("Pretraining took", duration(sum(seconds) / len(seconds)) + each))
    return facts


def _draws(config: CurveConfig) -> str:
    few = config.fewest_draws
    return count(few) if few == config.draws else f"{count(few)} to {count(config.draws)}"


def _encoder(number: int, encoder: Pretraining, losses: ThemedFigure | None) -> dict[str, Any]:
    return {
        "path": str(encoder.path),
        "problem": encoder.problem,
        "health": encoder.health,
        "health_problem": encoder.health_problem,
        "pictures": [_picture(name, path) for name, path in sorted(encoder.pictures.items())][::-1],
        "losses": losses,
        "stages": [
            (stage.name, _TIMES.join(map(str, stage.shape))) for stage in encoder.header.stages
        ]
        if encoder.header
        else [],
    }


def _no_gallery(study: StudyFiles) -> str:
    if not has_pretrained_arm(study.config):
        return "There are no images to show: no arm of this study has a pretrained encoder."
    return (
        "There are no images to show: this study has no gallery.json. `python -m downstream curve` "
        "makes it as soon as all rows are there; the same command makes it for an older study."
    )


def _gallery(gallery: Gallery, classes: Sequence[str], encoders: int) -> dict[str, Any]:
    return {
        "encoder": f"The encoder is {gallery.encoder}, the first of {encoders}. "
        if encoders > 1
        else "",
        "budget": count(gallery.budget),
        "tested": count(gallery.tested),
        "wrong": count(gallery.wrong),
        "searched": count(gallery.searched),
        "asked": asked_thumbnails(gallery, classes),
        "same_class": same_class(gallery),
        "mistakes": mistake_thumbnails(gallery, classes),
    }


def _picture(name: str, path: Path) -> Picture:
    content = path.read_bytes()
    with Image.open(path) as image:
        width, height = image.size
    caption, alt = _PICTURE_TEXTS.get(name, (f"Preview “{name}”.", f"Grid of images: {name}."))
    return Picture(data_uri(content), width, height, caption, alt)
