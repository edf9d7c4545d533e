"""Logarithmic axes whose ticks are numbers as they are typed: 0.001, not a power of ten."""

import math
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_MOST_TICKS = 9


def set_log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make one axis logarithmic, with ticks for what it shows now: call it after drawing."""
    if which == "x":
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    decades = math.log10(high / low)
    if decades < 1:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if decades < 3 else (1,), numticks=_MOST_TICKS)
        )
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
