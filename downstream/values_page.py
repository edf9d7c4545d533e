"""An evaluation of several labels or quantities as files, as a page and as a table."""

import json
import shlex
from pathlib import Path
from typing import Any

from downstream.evaluate_values import Miss, ValueEvaluation
from downstream.evaluation_page import METRICS
from downstream.output_scores import headline
from downstream.report_drawing import count
from downstream.report_tables import Cell, Line
from models.outputs import MultiLabel
from pages import style
from pages.files import write_file
from pages.html import render
from pages.pictures import thumbnail
from training.environment import project_version

_PICTURE_SIDE = 160
_NONE = "–"
_CONTENTS = (
    ("names", "Each label or quantity"),
    ("misses", "Furthest off"),
    ("provenance", "What was run"),
)
_HEADINGS = {
    "average_precision": "average precision",
    "f1": "F1",
    "support": "images",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
}


def write_values(folder: Path, found: ValueEvaluation) -> Path:
    """Write metrics.json and report.html, and return the page's path.

    Raises:
        PageError: they cannot be written there; one line.
    """
    content = {
        "model": str(found.model),
        "model_sha256": found.header.weights_sha256,
        "shards": list(found.shards),
        "labels": str(found.labels),
        "images": len(found),
        "skipped": found.skipped,
        "unlabelled": found.unlabelled,
        **found.scores,
        "by_name": found.by_name,
    }
    templates = Path(__file__).with_name("templates")
    page = render(templates, "values.html.j2", _context(found))
    write_file(folder / "report.html", page.encode())
    write_file(folder / METRICS, (json.dumps(content, indent=2) + "\n").encode())
    return folder / "report.html"


def values_table(found: ValueEvaluation) -> str:
    """What to print: the scores, and a line for each label or quantity."""
    columns = _columns(found)
    width = max(len(name) for name in found.by_name)
    lines = [
        f"{_headline(found)}, {len(found):,} images",
        "",
        f"{'':{width}}  {'  '.join(columns)}",
    ]
    for name, scores in found.by_name.items():
        cells = [
            _text(key, value).rjust(len(heading))
            for heading, (key, value) in zip(columns, scores.items(), strict=True)
        ]
        lines.append(f"{name:{width}}  {'  '.join(cells)}")
    return "\n".join(lines)


def _headline(found: ValueEvaluation) -> str:
    text = headline(found.header.output, found.scores)
    return text[0].upper() + text[1:]


def _columns(found: ValueEvaluation) -> list[str]:
    first = next(iter(found.by_name.values()))
    return [_HEADINGS.get(key, key) for key in first]


def _text(key: str, value: float | None) -> str:
    if value is None:
        return _NONE
    if key == "support":
        return count(int(value))
    return f"{value:.4g}" if key in ("mae", "rmse") else f"{value:.3f}"


def _context(found: ValueEvaluation) -> dict[str, Any]:
    header = found.header
    facts = [("Images", count(len(found))), ("Labels learnt from", count(header.trained_on.images))]
    if isinstance(header.output, MultiLabel):
        facts.append(("Calibration error", f"{100 * found.scores['ece']:.1f} %"))
    left_out = found.skipped + found.unlabelled
    command = ["python", "-m", "downstream", "evaluate", str(found.model), *found.shards]
    return {
        "light": style.LIGHT,
        "dark": style.DARK,
        "contents": _CONTENTS,
        "version": project_version(),
        "name": str(found.model),
        "headline": _headline(found),
        "lead": f"{count(left_out)} images were left out." if left_out else "",
        "facts": facts,
        "columns": _columns(found),
        "lines": [
            Line(name, [Cell(_text(key, value)) for key, value in scores.items()])
            for name, scores in found.by_name.items()
        ],
        "misses": [_miss(one, header.classes, found) for one in found.misses],
        "identity": [
            ("Model", f"{found.model}, SHA-256 of its weights {header.weights_sha256}"),
            ("Scored on", " ".join(found.shards)),
            ("Labels", str(found.labels)),
            ("Images that could not be used", count(found.skipped)),
            ("Images without a label", count(found.unlabelled)),
        ],
        "command": shlex.join([*command, "--labels", str(found.labels)]),
    }


def _miss(miss: Miss, names: tuple[str, ...], found: ValueEvaluation) -> dict[str, str]:
    output = found.header.output
    said, truth = (output.said(values, names) or "none" for values in (miss.said, miss.truth))
    return {
        "source": thumbnail(miss.pixels, side=_PICTURE_SIDE),
        "name": miss.name,
        "said": said,
        "truth": truth,
    }
