"""The reliability diagram: how many images are right, against how sure the model is."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from downstream.reliability import BINS, Bin
from downstream.report_drawing import NARROW, WIDE
from pages.figures import new_figure
from pages.style import LIGHT


def reliability_figure(bins: Sequence[Bin], *, narrow: bool) -> Figure:
    """Accuracy against confidence with its interval, over how many images each bin holds."""
    figure = new_figure(NARROW, 420.0) if narrow else new_figure(WIDE, 520.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places = [100 * one.confidence for one in bins]
    values = [100 * one.accuracy for one in bins]
    reach = [
        [100 * (one.accuracy - one.interval[0]) for one in bins],
        [100 * (one.interval[1] - one.accuracy) for one in bins],
    ]
    above.plot([0, 100], [0, 100], color=LIGHT["muted"], linewidth=1.2, linestyle=(0, (4, 3)))
    above.errorbar(
        places,
        values,
        yerr=reach,
        color=LIGHT["accent"],
        marker="o",
        markeredgewidth=0,
        linewidth=1.6,
        elinewidth=1.4,
        capsize=3,
    )
    above.set_ylabel("right, %")
    above.set_ylim(0, 102)
    below.bar(
        [100 * one.low for one in bins],
        [one.images for one in bins],
        width=100 / BINS * 0.9,
        align="edge",
        color=LIGHT["accent"],
        alpha=0.55,
    )
    below.set_ylabel("images")
    below.set_xlabel("confidence, %")
    below.set_xlim(0, 102)
    figure.align_ylabels()
    return figure
