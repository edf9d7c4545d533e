"""The report on single classes: accuracy of each arm in each, and who gains by pretraining.

Accuracies are fractions in [0, 1] and are drawn in percent. Figures are made inside
`pages.figures.figure_settings`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from downstream.report_drawing import (
    NARROW,
    NARROW_FONT,
    WIDE,
    Drawing,
    count,
    marker_handle,
)
from downstream.report_study import StudyFiles
from downstream.report_style import ArmStyle
from downstream.report_tables import Line, Table, gain_cell
from pages.figures import axes_with_margins, new_figure

MOST_PANELS = 20
"""Classes up to which each has a panel and a line; of more, those at the two ends have lines."""
_ENDS = 10
_LEGEND_LINE = 20.0
_TITLE_LETTERS = 22


def classes_drawing(study: StudyFiles) -> Drawing | None:
    """A panel for each class, a line for each arm; None where classes are too many or unknown."""
    found = study.summary.get("class_accuracies", {})
    names = study.summary["classes"]
    curves = {
        style: {int(budget): by_class for budget, by_class in found[arm].items()}
        for arm, style in study.figure_styles().items()
        if found.get(arm)
    }
    if not curves or len(names) > MOST_PANELS:
        return None
    return Drawing(
        "classes",
        lambda narrow: _classes_figure(curves, names, narrow=narrow),
        "Accuracy by class against number of labels",
        "One panel for each class, one line for each arm; the figures are in classes.csv beside "
        "this page, and the gains by pretraining in the table below.",
    )


def _classes_figure(
    curves: Mapping[ArmStyle, Mapping[int, Sequence[Any]]], names: Sequence[str], *, narrow: bool
) -> Figure:
    columns = 2 if narrow else min(5, len(names))
    lines = math.ceil(len(names) / columns)
    panel = 128.0 if narrow else 190.0
    per_line = 1 if narrow else 3
    legend = 10 + _LEGEND_LINE * math.ceil(len(curves) / per_line)
    width, bottom = (NARROW, 26.0) if narrow else (WIDE, 26.0)
    height = legend + lines * panel + bottom
    figure = new_figure(width, height)
    means = [f["mean"] for by in curves.values() for c in by.values() for f in c if f]
    low, high = 100 * min(means), 100 * max(means)
    margin = 0.06 * (high - low) or 1.0
    left, gap = 40.0, 14.0
    breadth = (width - left) / columns
    for place, name in enumerate(names):
        line, column = divmod(place, columns)
        axes = axes_with_margins(
            figure,
            left + column * breadth,
            width - left - (column + 1) * breadth + gap,
            bottom + (lines - 1 - line) * panel + 24,
            legend + line * panel + 24,
        )
        _panel(axes, place, curves, narrow=narrow)
        short = name if len(name) <= _TITLE_LETTERS else f"{name[: _TITLE_LETTERS - 1]}…"
        axes.set_title(short, loc="left", fontsize=NARROW_FONT, fontweight="bold", pad=5)
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.tick_params(labelleft=column == 0, length=0)
    figure.text(0.004, 6 / height, "accuracy in the class (%) against labels (logarithmic)")
    figure.legend(
        [_handle(figure.axes[0], style) for style in curves],
        [style.label for style in curves],
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 2 / height),
        ncols=per_line,
        borderpad=0,
        borderaxespad=0,
        handlelength=3.0,
    )
    return figure


def _panel(
    axes: Axes,
    place: int,
    curves: Mapping[ArmStyle, Mapping[int, Sequence[Any]]],
    *,
    narrow: bool,
) -> None:
    for style, by_budget in curves.items():
        known = [(b, 100 * c[place]["mean"]) for b, c in sorted(by_budget.items()) if c[place]]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                linestyle=style.line,
                linewidth=1.6,
                marker=style.marker,
                markersize=4.5,
                markeredgewidth=0,
                color=style.color,
            )
    budgets = sorted({budget for by_budget in curves.values() for budget in by_budget})
    axes.set_xscale("log")
    axes.set_xlim(budgets[0] / 1.3, budgets[-1] * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(sorted({budgets[0], budgets[-1]})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(round(value))))
    axes.tick_params(labelsize=NARROW_FONT - 1)


def _handle(axes: Axes, style: ArmStyle) -> Line2D:
    handle = marker_handle(axes, style)
    handle.set(linestyle=style.line, linewidth=1.6)
    return handle


def class_table(study: StudyFiles) -> Table | None:
    """What each class gains by pretraining, for the first pair of arm and control of the summary.

    Of many classes those that gain most and least; None from a summary without differences.
    """
    entries = study.summary.get("class_differences", [])
    if not entries:
        return None
    arm, control = entries[0]["arm"], entries[0]["control"]
    by_class: dict[int, dict[int, Any]] = {}
    for entry in entries:
        if (entry["arm"], entry["control"]) == (arm, control):
            by_class.setdefault(entry["class"], {})[entry["budget"]] = entry
    shown, chosen = list(by_class), ""
    if len(shown) > MOST_PANELS:
        gains = {place: _mean_gain(found) for place, found in by_class.items()}
        ranked = sorted(shown, key=lambda place: -gains[place])
        shown = [*ranked[:_ENDS], *ranked[-_ENDS:]]
        chosen = (
            f" The {_ENDS} classes that gain most over all budgets, then the {_ENDS} that gain "
            "least; all are in classes.csv and summary.json."
        )
    styles, names = study.styles(), study.summary["classes"]
    return Table(
        "classes-table",
        "Gain by class",
        f"Accuracy in each class in points: {styles[arm].label} minus {styles[control].label}, "
        "draws paired, with 95 % intervals. Bold: the interval excludes zero. Nothing is corrected "
        f"for the number of classes: about one cell in twenty is bold by chance alone.{chosen}",
        "Class",
        [f"{count(budget)} labels" for budget in study.budgets],
        [
            Line(names[place], [gain_cell(by_class[place].get(budget)) for budget in study.budgets])
            for place in shown
        ],
    )


def _mean_gain(by_budget: Mapping[int, Mapping[str, float]]) -> float:
    return sum(entry["mean"] for entry in by_budget.values()) / len(by_budget)
