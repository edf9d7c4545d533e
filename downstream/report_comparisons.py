"""Pretraining against its controls: paired differences, and the labels that it saves.

Accuracies are fractions in [0, 1]; their differences are drawn in percentage points. Figures are
made inside `pages.figures.figure_settings`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from downstream.labels_saved import Flag, LabelsSaved
from downstream.report_drawing import (
    NARROW,
    NARROW_FONT,
    WIDE,
    WIDE_FONT,
    Drawing,
    count,
    marker_handle,
    signed,
    whisker,
)
from downstream.report_style import LIGHT, ArmStyle
from downstream.statistics import Difference
from pages.figures import axes_with_margins, new_figure

_PANEL_TICKS, _PANEL_COLUMNS = 7, 3
_TITLE_LETTERS, _NARROW_TITLE_LETTERS = 34, 46
"""That a line of a panel's title has room for; a longer one is set smaller."""
_BOUND_MARKERS: dict[Flag | None, str] = {"never_reached": ">", "below_start": "<"}


@dataclass(frozen=True)
class Comparison:
    """Paired differences of an arm and a control at each budget."""

    style: ArmStyle
    control: ArmStyle
    intervals: Mapping[int, Difference]


def differences_figure(comparisons: Sequence[Comparison], *, narrow: bool = False) -> Figure:
    """One panel for each comparison: paired difference in points at each budget, zero marked."""
    columns = 1 if narrow else _PANEL_COLUMNS
    lines = math.ceil(len(comparisons) / columns)
    panel_height = 158.0 if narrow else 240.0
    width, height = (NARROW if narrow else WIDE), lines * panel_height
    figure = new_figure(width, height)
    low, high = _range_of_differences(comparisons)
    for position, comparison in enumerate(comparisons):
        line, column = divmod(position, columns)
        left = 42 if narrow else 58
        panel_width = width / columns
        axes = axes_with_margins(
            figure,
            left + column * panel_width,
            (columns - 1 - column) * panel_width + 10,
            (lines - 1 - line) * panel_height + (30 if narrow else 44),
            line * panel_height + (26 if narrow else 52),
        )
        _draw_differences(axes, comparison)
        separator = " − " if narrow else "\n− "
        title = f"{comparison.style.label}{separator}{comparison.control.label}"
        longest = max(map(len, title.splitlines()))
        size, room = (NARROW_FONT, _NARROW_TITLE_LETTERS) if narrow else (WIDE_FONT, _TITLE_LETTERS)
        axes.set_title(
            title,
            loc="left",
            fontsize=size * min(1.0, room / longest),
            fontweight="bold",
        )
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
        if not narrow and position + columns >= len(comparisons):
            axes.set_xlabel("labels")
        if not narrow and column == 0:
            axes.set_ylabel("points")
    return figure


def differences_drawing(comparisons: Sequence[Comparison], description: str) -> Drawing | None:
    """Return that figure for a page, announced by `description`; None where nothing is compared."""
    if not comparisons:
        return None
    return Drawing(
        "differences",
        lambda narrow: differences_figure(comparisons, narrow=narrow),
        "Paired differences in accuracy",
        description,
    )


def _range_of_differences(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Limits in points that show every interval and zero."""
    values = [0.0]
    for comparison in comparisons:
        for interval in comparison.intervals.values():
            ends = (interval.low, interval.mean, interval.high)
            values += [100 * value for value in ends if value is not None]
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _draw_differences(axes: Axes, comparison: Comparison) -> None:
    style, budgets = comparison.style, sorted(comparison.intervals)
    axes.axhline(0, color=LIGHT["ink"], linewidth=1.2)
    for place, budget in enumerate(budgets):
        interval = comparison.intervals[budget]
        whisker(axes, place, interval, style)
        axes.plot(
            [place],
            [100 * interval.mean],
            marker=style.marker,
            color=style.color,
            markeredgewidth=1.6,
            markeredgecolor=style.color,
            markerfacecolor=style.color if interval.sign else LIGHT["page"],
        )
    axes.set_xlim(-0.6, len(budgets) - 0.4)
    every = math.ceil(len(budgets) / _PANEL_TICKS)
    ticks = range(0, len(budgets), every)
    axes.set_xticks(ticks, [count(budgets[place]) for place in ticks], fontsize=NARROW_FONT)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)


@dataclass(frozen=True)
class Saving:
    """Labels saved by an arm over a control at each budget."""

    style: ArmStyle
    control: ArmStyle
    budgets: Sequence[LabelsSaved]


def labels_saved_figure(saving: Saving, *, narrow: bool = False) -> Figure:
    """For each budget, a bar from the arm's labels to the labels that the control needs."""
    legend_height = 48 if narrow else 32
    height = legend_height + 70 + 36 * len(saving.budgets)
    figure = new_figure(NARROW if narrow else WIDE, height)
    axes = axes_with_margins(figure, 58 if narrow else 84, 52 if narrow else 230, 52, legend_height)
    ticks = [entry.budget for entry in saving.budgets]
    ends = [*ticks, *(_drawn_end(entry) for entry in saving.budgets)]
    axes.set_xscale("log")
    axes.set_xlim(min(ends) / 1.2, max(ends) * 1.2)
    for place, entry in enumerate(saving.budgets):
        _draw_saving(axes, place, entry, saving, narrow=narrow)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(round(value))))
    axes.set_xlabel("labels (logarithmic)")
    axes.set_yticks(range(len(ticks)), [count(tick) for tick in ticks])
    axes.set_ylabel("budget")
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    figure.legend(
        [marker_handle(axes, saving.style), marker_handle(axes, saving.control)],
        [f"labels used, {saving.style.label}", f"labels needed, {saving.control.label}"],
        loc="upper left",
        bbox_to_anchor=(0.005, 1 - 6 / height),
        ncols=1 if narrow else 2,
        frameon=False,
        handlelength=1,
        borderpad=0,
        borderaxespad=0,
    )
    return figure


def _draw_saving(
    axes: Axes, place: int, entry: LabelsSaved, saving: Saving, *, narrow: bool
) -> None:
    """One bar, its two ends, and the labels saved; an arrow head marks an end that is a bound."""
    end = _drawn_end(entry)
    bar = saving.control if end < entry.budget else saving.style
    axes.plot(
        [entry.budget, end],
        [place, place],
        linewidth=5,
        solid_capstyle="butt",
        color=bar.color,
        alpha=0.3,
    )
    for labels, marker, style in (
        (end, _BOUND_MARKERS.get(entry.flag, saving.control.marker), saving.control),
        (entry.budget, saving.style.marker, saving.style),
    ):
        axes.plot(
            [labels],
            [place],
            linestyle="none",
            marker=marker,
            markeredgewidth=0,
            color=style.color,
        )
    axes.annotate(
        _short_saving(entry) if narrow else saving_in_words(entry),
        xy=(max(entry.budget, end), place),
        xytext=(9 if narrow else 14, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )


def _drawn_end(entry: LabelsSaved) -> float:
    """Where the bar ends: at the labels needed, or beyond them where those are a bound."""
    stretch = {"never_reached": 1.2, "below_start": 1 / 1.2}
    return entry.labels_needed * stretch.get(entry.flag or "", 1.0)


def saving_in_words(entry: LabelsSaved) -> str:
    """The labels saved with their sign; what a bound means, where they are one."""
    saved = signed(round(entry.saved))
    if entry.flag == "never_reached":
        return f"at least {saved} (never reached)"
    return f"at most {saved}" if entry.flag == "below_start" else saved


def _short_saving(entry: LabelsSaved) -> str:
    bound = {"never_reached": "≥ ", "below_start": "≤ "}.get(entry.flag or "", "")
    return bound + signed(round(entry.saved))
