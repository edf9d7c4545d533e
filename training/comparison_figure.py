"""Curves of several runs in one figure: the smoothed metric, and faintly what was logged.

Charts are made inside `pages.figures.figure_settings`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pages.figures import axes_with_margins, figure_settings, new_figure, png
from training.comparison import Comparison, Entry, smooth
from training.log_axis import set_log_scale
from training.run_reading import Series

LIGHT_RUNS = {
    "run-1": "#1b5fd0",
    "run-2": "#b4530a",
    "run-3": "#0f7b3f",
    "run-4": "#b0178c",
    "run-5": "#0b7a88",
    "run-6": "#c0282a",
    "run-7": "#6d3fc4",
    "run-8": "#6b6500",
}
DARK_RUNS = {
    "run-1": "#7fb0ff",
    "run-2": "#f0a45a",
    "run-3": "#5fd38d",
    "run-4": "#f58fdc",
    "run-5": "#4fd3e0",
    "run-6": "#ff8a80",
    "run-7": "#bba5ff",
    "run-8": "#d3cd5c",
}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.3, 1.5), (6, 1.8, 1.3, 1.8))
LINE_WIDTH = 1.8

_AXIS_LABELS = {"step": "optimizer step", "images": "images", "seconds": "seconds"}
_MOST_POINTS = 240
_LOGARITHMIC_FROM = 5.0
"""Ratio of the highest to the lowest value from which on the axis is logarithmic."""
_HIGHEST = 3.0
"""End of a logarithmic axis, over the highest of the curves' first and median values."""
_LEFT, _BOTTOM, _TOP = 62.0, 48.0, 10.0
_PICTURE_CURVES, _PICTURE_HEIGHT = 680.0, 460.0
# Of the legend in CSS pixels: its line and gaps, and a letter of its font.
_LEGEND_KEY, _LEGEND_LETTER = 80.0, 8.5


@dataclass(frozen=True)
class RunStyle:
    """How one run is drawn; colour and dashes together tell it from the others.

    Attributes:
        role: of its colour.
        dashes: lengths of strokes and gaps in line widths; empty: solid.
    """

    role: str
    dashes: tuple[float, ...]


def run_styles(count: int) -> list[RunStyle]:
    """Return styles for `count` runs; the first 32 are all different."""
    roles = list(LIGHT_RUNS)
    return [
        RunStyle(roles[i % len(roles)], _DASHES[(i + i // len(roles)) % len(_DASHES)])
        for i in range(count)
    ]


@dataclass(frozen=True)
class Chart:
    """A figure, and how its pixels are read.

    Attributes:
        frame: left, top, right and bottom of the axes in CSS pixels of the figure.
        x, y: values at the left and right, and at the bottom and top.
        logarithmic: whether y is.
    """

    figure: Figure
    frame: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    logarithmic: bool


def curves_chart(
    entries: Sequence[Entry],
    metric: str,
    position: str,
    *,
    width: float,
    height: float,
    right: float = 24.0,
) -> Chart:
    """Draw a metric of all runs that log it against one of `POSITIONS`.

    The curves of run i are the SVG groups run-i (smoothed), raw-i and end-i (a cross where it
    diverged, a ring where it is unfinished), i from 0.

    Args:
        width, height: CSS pixels.
        right: margin on that side in CSS pixels.
    """
    figure = new_figure(width, height)
    frame = (_LEFT, _TOP, width - right, height - _BOTTOM)
    axes = axes_with_margins(figure, _LEFT, right, _BOTTOM, _TOP)
    drawn = [
        (number, entry, series, style)
        for number, (entry, style) in enumerate(zip(entries, run_styles(len(entries)), strict=True))
        if (series := entry.run.series.get(metric)) is not None
    ]
    for number, _, series, style in drawn:
        _draw_run(axes, number, series, style, position)
    logarithmic = _limit_values(axes, [(entry, series) for _, entry, series, _ in drawn])
    for number, entry, series, style in drawn:
        _mark_end(axes, number, entry, series, style, position)
    axes.set_xlim(0, max(float(series.positions[position][-1]) for _, _, series, _ in drawn))
    axes.set_xlabel(_AXIS_LABELS[position])
    axes.xaxis.set_major_locator(MaxNLocator(4 if width < 600 else 8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    return Chart(figure, frame, axes.get_xlim(), axes.get_ylim(), logarithmic)


def _line(style: RunStyle) -> Literal["solid"] | tuple[float, tuple[float, ...]]:
    return (0, style.dashes) if style.dashes else "solid"


def _draw_run(axes: Axes, number: int, series: Series, style: RunStyle, position: str) -> None:
    places, values = series.positions[position], smooth(series.values)
    shown = np.unique(np.linspace(0, len(values) - 1, _MOST_POINTS).round().astype(int))
    color = LIGHT_RUNS[style.role]
    if not np.array_equal(values, series.values):
        axes.plot(
            places[shown],
            series.values[shown],
            color=color,
            alpha=0.25,
            linewidth=0.8,
            gid=f"raw-{number}",
        )
    axes.plot(
        places[shown],
        values[shown],
        color=color,
        linewidth=LINE_WIDTH,
        linestyle=_line(style),
        marker="o" if len(shown) == 1 else None,
        gid=f"run-{number}",
    )


def _mark_end(
    axes: Axes, number: int, entry: Entry, series: Series, style: RunStyle, position: str
) -> None:
    """Mark the last point of a run that did not end as planned, at the edge where it is beyond."""
    if entry.run.ending not in ("diverged", "unfinished"):
        return
    color, diverged = LIGHT_RUNS[style.role], entry.run.ending == "diverged"
    low, high = axes.get_ylim()
    axes.plot(
        series.positions[position][-1:],
        smooth(series.values)[-1:].clip(low, high),
        color=color,
        linestyle="none",
        marker="X" if diverged else "o",
        markerfacecolor=color if diverged else "none",
        markeredgewidth=0 if diverged else 1.4,
        gid=f"end-{number}",
        clip_on=False,
    )


def _limit_values(axes: Axes, drawn: Sequence[tuple[Entry, Series]]) -> bool:
    """Set limits and scale of the values; return whether it is logarithmic.

    What explodes leaves the picture at its top rather than flattening everything else.
    """
    steady = [series for entry, series in drawn if entry.run.ending != "diverged"]
    curves = [smooth(series.values) for series in steady or [series for _, series in drawn]]
    low, high = min(float(c.min()) for c in curves), max(float(c.max()) for c in curves)
    if low > 0 and high > _LOGARITHMIC_FROM * low:
        usual = max(max(float(c[0]), float(np.median(c))) for c in curves)
        high = min(high, _HIGHEST * usual)
        margin = (high / low) ** 0.05
        axes.set_ylim(low / margin, high * margin)
        set_log_scale(axes, "y")
        return True
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))
    return False


def comparison_png(comparison: Comparison) -> bytes:
    """Return a PNG of the metric against steps, with each run's last value in the legend."""
    with figure_settings(salt="comparison", font_size=13):
        entries = comparison.entries
        words = [_in_words(entry) for entry in entries]
        legend = _LEGEND_KEY + _LEGEND_LETTER * max(map(len, words))
        chart = curves_chart(
            entries,
            comparison.metric,
            "step",
            width=_PICTURE_CURVES + legend,
            height=max(_PICTURE_HEIGHT, 60 + 22 * len(entries)),
            right=legend,
        )
        axes = chart.figure.axes[0]
        axes.set_ylabel(comparison.metric)
        handles = [
            Line2D([], [], color=LIGHT_RUNS[style.role], linestyle=_line(style), linewidth=2)
            for style in run_styles(len(entries))
        ]
        axes.legend(
            handles,
            words,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.02),
            handlelength=2.6,
        )
        return png(chart.figure)


def _in_words(entry: Entry) -> str:
    ending = entry.run.ending
    if entry.final is None or ending == "diverged":
        return f"{entry.label} ({ending})"
    note = f" ({ending})" if ending == "unfinished" else ""
    return f"{entry.final:.3g}  {entry.label}{note}"
