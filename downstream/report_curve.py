"""The label-efficiency curve: test accuracy against the number of labels.

Accuracies are fractions in [0, 1] and are drawn in percent. Figures are made inside
`pages.figures.figure_settings`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from downstream.report_drawing import (
    NARROW,
    WIDE,
    count,
    marker_handle,
    whisker,
)
from downstream.report_style import ArmStyle
from downstream.statistics import Interval
from pages.figures import axes_with_margins, new_figure

_NAME_HEIGHT = 20.5
_BESIDE_NAME, _LETTER = 40.0, 7.5
"""Room beside a curve's name, and for each of its letters."""
_DRAW_SIZE = 3.8
_TIP_SIZE = 16.0


@dataclass(frozen=True)
class Curve:
    """One arm: its style, its interval at each budget and the accuracies behind them."""

    style: ArmStyle
    intervals: Mapping[int, Interval]
    rows: Mapping[int, Sequence[float]]


def accuracy_figure(curves: Sequence[Curve], *, narrow: bool = False) -> Figure:
    """Test accuracy of every arm against the number of labels, with intervals and single rows."""
    budgets = sorted({budget for curve in curves for budget in curve.intervals})
    legend_height = 19 * len(curves) if narrow else 0
    # Beside the curves their names stand one below the other.
    tall = max(520.0, 64 + _NAME_HEIGHT * len(curves))
    width, height = (NARROW, 304.0 + legend_height) if narrow else (WIDE, tall)
    figure = new_figure(width, height)
    longest = max((len(curve.style.label) for curve in curves), default=0)
    names = max(196.0, _BESIDE_NAME + _LETTER * longest)
    left, right, bottom, top = (44, 18, 58 + legend_height, 8) if narrow else (58, names, 52, 12)
    axes = axes_with_margins(figure, left, right, bottom, top)
    breadth = math.log(budgets[-1] / budgets[0]) or 1.0
    spread = breadth * (0.06 if narrow else 0.05)
    _label_axis(axes, budgets, margin=spread / 2 + (0.02 if len(budgets) > 1 else 0.5) * breadth)
    middle = (len(curves) - 1) / 2
    offsets = [math.exp(spread * (i - middle) / (2 * middle or 1)) for i in range(len(curves))]
    for number, (curve, offset) in enumerate(zip(curves, offsets, strict=True)):
        _draw_curve(axes, curve, offset, series_gid(number))
    axes.yaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    axes.set_ylabel("accuracy on test images (%)")
    if narrow:
        handles = [_handle(axes, curve.style) for curve in curves]
        figure.legend(
            handles,
            [curve.style.label for curve in curves],
            loc="lower left",
            bbox_to_anchor=(left / width, 4 / height),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=3.4,
            labelspacing=0.35,
        )
    else:
        _label_ends(axes, curves, offsets)
    return figure


def series_gid(number: int) -> str:
    """What the names of an arm's parts begin with, by its place among the curves of a figure."""
    return f"series-{number}-"


def point_tips(curves: Sequence[Curve]) -> dict[str, str]:
    """Return what is said of each point of `accuracy_figure`, by its name in the figure."""
    tips = {}
    for number, curve in enumerate(curves):
        for budget, found in curve.intervals.items():
            text = f"{curve.style.label}, {count(budget)} labels: {100 * found.mean:.1f} %"
            if found.low is not None and found.high is not None:
                text += f" (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f})"
            tips[f"{series_gid(number)}tip-{budget}"] = text
    return tips


def _draw_curve(axes: Axes, curve: Curve, offset: float, gid: str) -> None:
    """One arm, its labels multiplied by `offset` so that the arms' whiskers stand side by side."""
    style, budgets = curve.style, sorted(curve.intervals)
    rows = [(budget * offset, 100 * value) for budget in budgets for value in curve.rows[budget]]
    if rows:
        axes.plot(
            *zip(*rows, strict=True),
            linestyle="none",
            marker="o",
            markersize=_DRAW_SIZE,
            markeredgewidth=0,
            color=style.color,
            alpha=0.4,
            gid=f"{gid}rows",
        )
    means = [100 * curve.intervals[budget].mean for budget in budgets]
    places = [budget * offset for budget in budgets]
    for place, budget in zip(places, budgets, strict=True):
        whisker(axes, place, curve.intervals[budget], style, gid=f"{gid}whisker-{budget}")
    axes.plot(
        places,
        means,
        linestyle=style.line,
        linewidth=2.0,
        marker=style.marker,
        markeredgewidth=0,
        color=style.color,
        gid=f"{gid}line",
    )
    for place, mean, budget in zip(places, means, budgets, strict=True):
        # Unseen, and larger than the mark, for a pointer to rest on.
        axes.plot(
            [place],
            [mean],
            marker="o",
            markersize=_TIP_SIZE,
            markeredgewidth=0,
            color=style.color,
            alpha=0,
            gid=f"{gid}tip-{budget}",
        )


def _label_axis(axes: Axes, budgets: Sequence[int], margin: float) -> None:
    """Logarithmic axis of labels, the budgets its ticks, `margin` in natural logarithms."""
    axes.set_xscale("log")
    axes.set_xlim(budgets[0] * math.exp(-margin), budgets[-1] * math.exp(margin))
    axes.xaxis.set_major_locator(FixedLocator(list(budgets)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(round(value))))
    axes.set_xlabel("labels (logarithmic)")


def _label_ends(axes: Axes, curves: Sequence[Curve], offsets: Sequence[float]) -> None:
    """Name each curve to the right of its last point, moving names apart where they collide."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    low, high = axes.get_ylim()
    height = axes.get_position().height * figure.get_size_inches()[1] * 72
    gap = 20.0 * (high - low) / height
    ends = []
    for number, (curve, offset) in enumerate(zip(curves, offsets, strict=True)):
        budget = max(curve.intervals)
        mean = 100 * curve.intervals[budget].mean
        ends.append((mean, budget * offset, curve.style, f"{series_gid(number)}name"))
    ends.sort(key=lambda end: end[0])
    places = spread_apart(
        [mean for mean, *_ in ends], gap=gap, low=low + gap / 2, high=high - gap / 2
    )
    left, right = axes.get_xlim()
    for (mean, last, style, gid), place in zip(ends, places, strict=True):
        label = axes.annotate(
            style.label,
            xy=(last, mean),
            xytext=(right * (right / left) ** 0.02, place),
            textcoords="data",
            color=style.color,
            va="center",
            gid=gid,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.color,
                "linewidth": 0.8,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 7,
                "relpos": (0.0, 0.5),
            },
        )
        if label.arrow_patch is not None:
            label.arrow_patch.set_gid(f"{gid}-line")


def spread_apart(targets: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places nearest to the ascending `targets` in least squares that are `gap` or more apart.

    They lie in [low, high] as far as they fit there.
    """
    steps = gap * np.arange(len(targets))
    bases = isotonic_regression(np.asarray(targets) - steps).x
    room = max(low, high - gap * (len(targets) - 1))
    return [float(place) for place in np.clip(bases, low, room) + steps]


def _handle(axes: Axes, style: ArmStyle) -> Line2D:
    """An arm's line and marker, for a legend."""
    handle = marker_handle(axes, style)
    handle.set(linestyle=style.line, linewidth=2.0)
    return handle
