"""An evaluation as files and as a page: metrics.json, report.html and a table for the terminal."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from downstream.evaluate import Evaluation, Mistake
from downstream.reliability import BINS
from downstream.reliability_figure import reliability_figure
from downstream.report_drawing import count, themed
from downstream.report_tables import Cell, Line
from pages import style
from pages.files import write_file
from pages.html import render
from pages.pictures import thumbnail
from training.environment import project_version
from training.errors import InputError

METRICS = "metrics.json"
LIGHT = {**style.LIGHT, "wrong": "#b3261e"}
DARK = {**style.DARK, "wrong": "#ff9d94"}

MOST_CLASSES_SHOWN = 40
DEEPEST = 45.0
"""Percent of colour behind a figure, as far as that can still be read."""
_MOST_PAIRS = 10
_PICTURE_SIDE = 160
_CONTENTS = (
    ("confusion", "What is taken for what"),
    ("classes", "Classes"),
    ("reliability", "Reliability"),
    ("mistakes", "Worst mistakes"),
    ("provenance", "What was run"),
)
_NONE = "–"


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check that an evaluation may be written into a folder.

    Raises:
        InputError: it holds one.
    """
    if (folder / METRICS).exists() and not overwrite:
        raise InputError(
            f"--out: {folder} holds an evaluation; --overwrite replaces it, or give another folder"
        )


def write_evaluation(folder: Path, found: Evaluation) -> Path:
    """Write metrics.json and report.html, and return the page's path.

    Raises:
        PageError: they cannot be written there; one line.
    """
    text = json.dumps(_metrics(found), indent=2) + "\n"
    write_file(folder / "report.html", render_page(found).encode())
    write_file(folder / METRICS, text.encode())
    return folder / "report.html"


def metrics_table(found: Evaluation) -> str:
    """What to print: the scores, and a line for each class."""
    width = max(len("class"), *(len(name) for name in found.header.classes))
    lines = [
        f"{_accuracy_text(found)} of {count(len(found))} images right; "
        f"macro F1 {found.macro_f1:.3f}, NLL {found.nll:.3f}, ECE {100 * found.ece:.1f} %",
        "",
        f"{'class':{width}}  precision  recall     F1  images",
    ]
    for name, scores in zip(found.header.classes, found.classes, strict=True):
        lines.append(
            f"{name:{width}}  {_percent(scores.precision):>9}  {_percent(scores.recall):>6}  "
            f"{_percent(scores.f1):>5}  {scores.support:>6,}"
        )
    return "\n".join(lines)


def render_page(found: Evaluation) -> str:
    """The whole page as HTML; it needs no network."""
    return render(Path(__file__).with_name("templates"), "evaluation.html.j2", _context(found))


def _metrics(found: Evaluation) -> dict[str, Any]:
    return {
        "model": str(found.model),
        "model_sha256": found.header.weights_sha256,
        "shards": list(found.shards),
        "images": len(found),
        "skipped": found.skipped,
        "unlabelled": found.unlabelled,
        "accuracy": found.accuracy,
        "accuracy_interval": list(found.accuracy_interval),
        "macro_f1": found.macro_f1,
        "nll": found.nll,
        "ece": found.ece,
        "classes": {
            name: asdict(scores)
            for name, scores in zip(found.header.classes, found.classes, strict=True)
        },
        "confusion": found.confusion.tolist(),
        "reliability": [asdict(one) for one in found.bins],
        "abstaining": {
            wanted: {"below": below, "predicted": share, "accuracy": accuracy}
            for wanted, (below, share, accuracy) in found.abstaining().items()
        },
    }


def _context(found: Evaluation) -> dict[str, Any]:
    header = found.header
    headline = f"{_accuracy_text(found)} of {count(len(found))} images right"
    return {
        "light": LIGHT,
        "dark": DARK,
        "contents": _CONTENTS,
        "version": project_version(),
        "name": str(found.model),
        "headline": headline,
        "lead": _lead(found),
        "facts": [
            ("Images", count(len(found))),
            ("Classes", count(len(header.classes))),
            ("Macro F1", f"{100 * found.macro_f1:.1f} %"),
            ("Calibration error", f"{100 * found.ece:.1f} %"),
            ("Negative log-likelihood", f"{found.nll:.3f}"),
            ("Labels learnt from", count(header.trained_on.images)),
        ],
        "classes": header.classes if len(header.classes) <= MOST_CLASSES_SHOWN else (),
        "confusion": _confusion_rows(found),
        "pairs_columns": ["of its images", "images"],
        "pair_lines": _pair_lines(found),
        "class_columns": ["precision", "recall", "F1", "images"],
        "class_lines": _class_lines(found),
        "bins": BINS,
        "reliability": themed(
            "reliability",
            lambda narrow: reliability_figure(found.bins, narrow=narrow),
            "Share of images that are right, against confidence",
            "; ".join(
                f"confidence {_percent(one.confidence)}: {_percent(one.accuracy)} of "
                f"{count(one.images)} right"
                for one in found.bins
            )
            + ".",
            light=LIGHT,
        ),
        "abstain_columns": ["below", "predicted", "right"],
        "abstain_lines": [
            Line(f"{100 * float(wanted):g} %", [Cell(_percent(p)) for p in row])
            for wanted, row in found.abstaining().items()
        ],
        "mistakes": [_mistake(one, header.classes) for one in found.mistakes],
        "all_mistakes": len(found) - int(found.confusion.trace()),
        "identity": _identity(found),
        "command": shlex.join(
            ["python", "-m", "downstream", "evaluate", str(found.model), *found.shards]
        ),
    }


def _accuracy_text(found: Evaluation) -> str:
    low, high = found.accuracy_interval
    return f"{100 * found.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _lead(found: Evaluation) -> str:
    pairs = _confused_pairs(found)
    sentences = []
    if pairs:
        truth, predicted, images, _ = pairs[0]
        names = found.header.classes
        sentences.append(
            f"Most often, {names[truth]} is taken for {names[predicted]}: {count(images)} times."
        )
    gap = sum(one.images * (one.confidence - one.accuracy) for one in found.bins) / len(found)
    if abs(gap) < 0.01:
        sentences.append("Its confidence is true within a percent on average.")
    else:
        word = "more" if gap > 0 else "less"
        sentences.append(f"On average it is {100 * abs(gap):.1f} % {word} confident than right.")
    if left_out := found.skipped + found.unlabelled:
        sentences.append(f"{count(left_out)} images were left out.")
    return " ".join(sentences)


def _confused_pairs(found: Evaluation) -> list[tuple[int, int, int, float]]:
    """True class, predicted class, images, and their share of the class; most images first."""
    confusion = found.confusion
    pairs = [
        (truth, predicted, images, images / int(confusion[truth].sum()))
        for truth, row in enumerate(confusion.tolist())
        for predicted, images in enumerate(row)
        if images and truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _pair_lines(found: Evaluation) -> list[Line]:
    names = found.header.classes
    return [
        Line(
            f"{names[truth]} as {names[predicted]}",
            [Cell(_percent(share)), Cell(count(images))],
        )
        for truth, predicted, images, share in _confused_pairs(found)[:_MOST_PAIRS]
    ]


def _confusion_rows(found: Evaluation) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Each class with its cells: class of colour, its depth in percent, and the count."""
    deepest = max((share for *_, share in _confused_pairs(found)), default=1.0)
    rows = []
    for truth, (name, row) in enumerate(
        zip(found.header.classes, found.confusion.tolist(), strict=True)
    ):
        total = max(sum(row), 1)
        cells = []
        for predicted, images in enumerate(row):
            right = predicted == truth
            share = images / total if right else images / total / deepest
            cells.append(("right" if right else "wrong", f"{DEEPEST * share:.1f}%", count(images)))
        rows.append((name, cells))
    return rows if len(rows) <= MOST_CLASSES_SHOWN else []


def _class_lines(found: Evaluation) -> list[Line]:
    return [
        Line(
            name,
            [Cell(_percent(value)) for value in (scores.precision, scores.recall, scores.f1)]
            + [Cell(count(scores.support))],
        )
        for name, scores in zip(found.header.classes, found.classes, strict=True)
    ]


def _mistake(mistake: Mistake, names: tuple[str, ...]) -> dict[str, str]:
    return {
        "source": thumbnail(mistake.pixels, side=_PICTURE_SIDE),
        "name": mistake.name,
        "truth": names[mistake.truth],
        "predicted": names[mistake.predicted],
        "confidence": _percent(mistake.confidence),
    }


def _identity(found: Evaluation) -> list[tuple[str, str]]:
    header = found.header
    trained_on = header.trained_on
    return [
        ("Model", f"{found.model}, SHA-256 of its weights {header.weights_sha256}"),
        (
            "Trained on",
            f"{count(trained_on.images)} labels of {trained_on.dataset or 'an unnamed set'}, "
            f"fingerprint {trained_on.fingerprint}",
        ),
        ("Confidences calibrated on", f"{count(header.calibration.labels)} labels"),
        ("Scored on", " ".join(found.shards)),
        ("Images that could not be used", count(found.skipped)),
        ("Images without a label", count(found.unlabelled)),
    ]


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f} %"
