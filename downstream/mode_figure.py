"""The picture of a study of ways to reuse an encoder: what was taken, and how good it was."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from downstream.mode_summary import AutoAgainstBest, ModeSummary
from downstream.report_style import LIGHT
from downstream.statistics import Interval
from pages.figures import figure_settings, new_figure, svg_document

_WIDTH, _HEIGHT = 960.0, 620.0
_ROLES = [f"arm-{number}" for number in range(1, 9)]


def modes_svg(summary: ModeSummary, found: AutoAgainstBest) -> str:
    """Return an SVG document: shares of what an automatic mode took, above its accuracy."""
    with figure_settings(salt="modes", font_size=14):
        return svg_document(_figure(summary, found))


def _figure(summary: ModeSummary, found: AutoAgainstBest) -> Figure:
    figure = new_figure(_WIDTH, _HEIGHT)
    above, below = figure.subplots(2, 1, sharex=True)
    _shares(above, found.taken)
    above.set_ylabel(f"taken by {found.name} (% of draws)")
    above.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    best = {budget: summary.accuracy[mode][budget] for budget, mode in found.best.items()}
    _accuracy(below, best, "arm-5", "s", "best single mode\nin hindsight")
    _accuracy(below, summary.accuracy[found.name], "arm-1", "o", found.name)
    below.set_xticks(range(len(summary.budgets)), [f"{budget:,}" for budget in summary.budgets])
    below.set_xlabel("labels")
    below.set_ylabel("accuracy (%)")
    below.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _shares(axes: Axes, taken: Mapping[int, Mapping[str, float]]) -> None:
    kinds = list(dict.fromkeys(what for shares in taken.values() for what in shares))
    bottoms = [0.0] * len(taken)
    for number, what in enumerate(kinds):
        heights = [100 * shares.get(what, 0.0) for shares in taken.values()]
        axes.bar(
            range(len(taken)),
            heights,
            width=0.7,
            bottom=bottoms,
            label=what,
            color=LIGHT[_ROLES[number % len(_ROLES)]],
            edgecolor="white",
        )
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]


def _accuracy(
    axes: Axes, intervals: Mapping[int, Interval], role: str, marker: str, label: str
) -> None:
    axes.errorbar(
        range(len(intervals)),
        [100 * interval.mean for interval in intervals.values()],
        yerr=[
            0.0 if interval.high is None else 100 * (interval.high - interval.mean)
            for interval in intervals.values()
        ],
        color=LIGHT[role],
        marker=marker,
        capsize=3.0,
        label=label,
    )
