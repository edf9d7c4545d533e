"""The page that compares runs: what its template is filled with.

The template escapes every text; only the figures made here are markup.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pages.figures import figure_settings, inline_svg
from pages.html import render
from pages.style import DARK, LIGHT
from training.comparison import Comparison, Entry
from training.comparison_figure import (
    DARK_RUNS,
    LIGHT_RUNS,
    LINE_WIDTH,
    RunStyle,
    curves_chart,
    run_styles,
)
from training.console import format_seconds
from training.environment import project_version
from training.run_reading import POSITIONS, Run

_WIDE, _NARROW, _SMALL = (960.0, 420.0), (340.0, 300.0), (400.0, 260.0)
_WIDE_FONT, _NARROW_FONT = 14.0, 12.0
_HEALTH = "health/"
_SIGNALS = {
    "grad_norm": "Gradient norm",
    "update_ratio": "Update against weights",
    "dead": "Share of dead units",
    "saturated": "Share of saturated outputs",
}
_DASH = "–"


@dataclass(frozen=True)
class PageChart:
    """A figure on the page, with what the script needs to read values from it.

    Attributes:
        svg: the figure.
        reading: JSON of `comparison_figure.Chart` without the figure.
    """

    svg: Markup
    reading: str


@dataclass(frozen=True)
class Row:
    """A run in the legend and the table.

    Attributes:
        number: of its curves, from 0.
        dashes: of its line in SVG's words.
        unplanned: whether it did not come to an end that was meant.
        cells: text, and what stands in small type below it.
    """

    number: int
    label: str
    path: str
    role: str
    dashes: str
    unplanned: bool
    cells: Sequence[tuple[str, str]]
    settings: Sequence[str]


def render_page(comparison: Comparison) -> str:
    """Return the whole page as HTML; it needs no network."""
    return render(Path(__file__).with_name("templates"), "comparison.html.j2", _context(comparison))


def _context(comparison: Comparison) -> dict[str, Any]:
    entries, metric = comparison.entries, comparison.metric
    groups = _groups([name for name in comparison.metrics if name != metric])
    sections = [(_identifier(heading), heading, names) for heading, names in groups.items()]
    return {
        "light": {**LIGHT, **LIGHT_RUNS},
        "dark": {**DARK, **DARK_RUNS},
        "contents": [
            ("curves", "Curves"),
            ("runs", "The runs"),
            *((section, heading) for section, heading, _ in sections),
        ],
        "version": project_version(),
        "metric": metric,
        "headline": f"{metric} of {len(entries)} run{'s' if len(entries) > 1 else ''}",
        "lead": _lead(comparison),
        "columns": _columns(comparison),
        "keys": list(comparison.differing),
        "rows": _rows(comparison),
        "main": [(position, *_main_charts(comparison, position)) for position in POSITIONS],
        "sections": [
            (section, heading, [(name, _small_chart(entries, name)) for name in names])
            for section, heading, names in sections
        ],
    }


def _identifier(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def _lead(comparison: Comparison) -> str:
    """Say which run ended best, and which did not end as planned."""
    first = comparison.entries[0]
    sentences = []
    if first.final is not None and first.run.ending not in ("diverged", "no steps"):
        ends = "lowest" if comparison.mode == "min" else "highest"
        sentences.append(f"{first.label} ends {ends}, at {_number(first.final)}.")
    for ending, words in (
        ("diverged", "diverged"),
        ("unfinished", "not finished"),
        ("no steps", "without a step"),
    ):
        labels = [entry.label for entry in comparison.entries if entry.run.ending == ending]
        if labels:
            sentences.append(f"{words.capitalize()}: {', '.join(labels)}.")
    return " ".join([*sentences, comparison.note]).strip()


def _columns(comparison: Comparison) -> list[str]:
    best = "lowest" if comparison.mode == "min" else "highest"
    return [f"{comparison.metric}, end", best, "steps", "time", "images/s", "ending"]


def _rows(comparison: Comparison) -> list[Row]:
    entries = comparison.entries
    return [
        Row(
            number=number,
            label=entry.label,
            path=str(entry.run.path),
            role=style.role,
            dashes=_dash_array(style),
            unplanned=entry.run.ending in ("diverged", "unfinished", "no steps"),
            cells=_cells(entry),
            settings=[_setting(values[number]) for values in comparison.differing.values()],
        )
        for number, (entry, style) in enumerate(zip(entries, run_styles(len(entries)), strict=True))
    ]


def _dash_array(style: RunStyle) -> str:
    return " ".join(f"{LINE_WIDTH * length:g}" for length in style.dashes) or "none"


def _cells(entry: Entry) -> list[tuple[str, str]]:
    run = entry.run
    final = _DASH if entry.final is None else _number(entry.final)
    best = ("", "") if entry.best is None else (_number(entry.best[0]), f"step {entry.best[1]:,}")
    speed = _DASH if run.images_per_second is None else f"{run.images_per_second:,.0f}"
    return [
        (final, ""),
        best,
        (f"{run.steps:,}", _of_total(run)),
        (format_seconds(run.seconds), ""),
        (speed, ""),
        (run.ending, ""),
    ]


def _of_total(run: Run) -> str:
    short = run.total_steps is not None and run.steps < run.total_steps
    return f"of {run.total_steps:,}" if short else ""


def _number(value: float) -> str:
    return f"{value:.4g}"


def _setting(value: Any) -> str:
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_setting(item) for item in value) or "none"
    return str(value)


def _groups(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Return the metrics under headings, health signals by their kind."""
    groups: dict[str, list[str]] = {}
    for name in metrics:
        if name.startswith(_HEALTH):
            signal = name.removeprefix(_HEALTH).split("/")[0]
            words = _SIGNALS.get(signal, signal.replace("_", " ").capitalize())
            heading = f"Health: {words[0].lower()}{words[1:]}"
        elif name.split("/")[-1] in ("lr", "grad_norm", "images_per_second"):
            heading = "Learning rate, gradient norm, speed"
        else:
            heading = "Other metrics"
        groups.setdefault(heading, []).append(name)
    return groups


def _main_charts(comparison: Comparison, position: str) -> tuple[PageChart, PageChart]:
    """Return the metric against a position, for a wide page and for a narrow one."""
    wide, narrow = (
        _chart(
            comparison.entries,
            comparison.metric,
            position,
            name=f"main-{position}-{kind}",
            size=size,
            font_size=font_size,
        )
        for kind, size, font_size in (
            ("wide", _WIDE, _WIDE_FONT),
            ("narrow", _NARROW, _NARROW_FONT),
        )
    )
    return wide, narrow


def _small_chart(entries: Sequence[Entry], metric: str) -> PageChart:
    name = f"chart-{_identifier(metric)}"
    return _chart(entries, metric, "step", name=name, size=_SMALL, font_size=_NARROW_FONT)


def _chart(
    entries: Sequence[Entry],
    metric: str,
    position: str,
    *,
    name: str,
    size: tuple[float, float],
    font_size: float,
) -> PageChart:
    with figure_settings(salt=name, font_size=font_size):
        chart = curves_chart(entries, metric, position, width=size[0], height=size[1])
        svg = inline_svg(
            chart.figure,
            name=name,
            title=f"{metric} against {position}",
            description="One curve for each run; their last values are in the table.",
            light={**LIGHT, **LIGHT_RUNS},
        )
    reading = {
        "frame": chart.frame,
        "x": chart.x,
        "y": chart.y,
        "logarithmic": chart.logarithmic,
        "position": position,
    }
    return PageChart(svg, json.dumps(reading))
