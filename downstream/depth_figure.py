"""The picture of `downstream.depth`: accuracy by number of reused stages."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from downstream.depth import Depth
from downstream.report_style import LIGHT
from downstream.statistics import Interval
from pages.figures import figure_settings, new_figure, svg_document

_WIDTH, _HEIGHT = 760.0, 420.0
_ROLES = [f"arm-{number}" for number in range(1, 9)]
_MARKERS = "os^DXvPp"


def depth_svg(depths: Sequence[Depth], budget: int) -> str:
    """Return an SVG document: each encoder's line solid, that of its random control dashed."""
    with figure_settings(salt="depth", font_size=14):
        return svg_document(_figure(depths, budget))


def _figure(depths: Sequence[Depth], budget: int) -> Figure:
    figure = new_figure(_WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(depth.encoder for depth in depths))
    controls: list[list[Interval]] = []
    for number, label in enumerate(labels):
        own = [depth for depth in depths if depth.encoder == label]
        # Whiskers of equal depths stand side by side.
        places = [depth.stages + 0.05 * (number - (len(labels) - 1) / 2) for depth in own]
        pretrained = [depth.pretrained for depth in own]
        random = [depth.random for depth in own]
        lines = [(pretrained, "-", label)]
        if random not in controls:  # encoders of one architecture share it
            controls.append(random)
            lines.append((random, "--", f"{label}, random"))
        for intervals, line, name in lines:
            axes.errorbar(
                places,
                [100 * interval.mean for interval in intervals],
                yerr=[100 * _half(interval) for interval in intervals],
                linestyle=line,
                linewidth=2.0 if line == "-" else 1.2,
                alpha=1.0 if line == "-" else 0.6,
                capsize=3.0,
                label=name,
                color=LIGHT[_ROLES[number % len(_ROLES)]],
                marker=_MARKERS[number % len(_MARKERS)],
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("stages reused, from the lowest")
    axes.set_ylabel(f"accuracy with {budget:,} labels (%)")
    figure.legend(loc="outside right upper")
    return figure


def _half(interval: Interval) -> float:
    return 0.0 if interval.high is None else interval.high - interval.mean
