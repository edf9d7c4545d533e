"""The picture of a learning-rate range test."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from pages.figures import figure_settings, new_figure, png
from pages.style import LIGHT
from training.find_lr import RangeTest, UsefulRates
from training.log_axis import set_log_scale

_REGIONS = {"too small": "#eceae6", "good": "#d5efdf", "too large": "#f8ddd5"}
_LOGARITHMIC_FROM = 5.0
"""Ratio of the highest to the lowest loss from which on the axis is logarithmic."""


def range_test_png(test: RangeTest, *, title: str) -> bytes:
    """Return a PNG of the loss against the learning rate with its regions and suggestions."""
    with figure_settings(salt="find-lr", font_size=13):
        return png(_draw(test, title))


def _draw(test: RangeTest, title: str) -> Figure:
    figure = new_figure(900, 480)
    axes = figure.add_subplot()
    axes.set_title(title, pad=24)
    loss, average = LIGHT["muted"], LIGHT["accent"]
    axes.plot(test.rates, test.losses, color=loss, alpha=0.6, linewidth=1, label="loss")
    axes.plot(test.rates, test.smoothed, color=average, linewidth=2.2, label="smoothed loss")
    axes.set_xlim(test.rates[0], test.rates[-1])
    set_log_scale(axes, "x")
    _limit_losses(axes, test)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    if (useful := test.useful_rates()) is not None:
        _shade(axes, test, useful)
        for rate, text, line in (
            (useful.steepest, "falls fastest", "solid"),
            (useful.largest / 10, "a tenth of the lowest loss’s rate", "dashed"),
        ):
            label = f"{rate:.2g}: {text}"
            axes.axvline(rate, color=LIGHT["ink"], linestyle=line, linewidth=1.4, label=label)
    axes.legend(loc="best", framealpha=0.9, frameon=True, edgecolor="none")
    return figure


def _limit_losses(axes: Axes, test: RangeTest) -> None:
    """Show the fall of the loss and half as much above it: a divergence has no top."""
    lowest = int(test.smoothed.argmin())
    low = min(float(test.losses[: lowest + 1].min()), float(test.smoothed[lowest]))
    high = float(test.losses[: lowest + 1].max())
    if low > 0 and high > _LOGARITHMIC_FROM * low:
        spread = high / low
        axes.set_ylim(low / spread**0.08, high * spread**0.3)
        set_log_scale(axes, "y")
    else:
        spread = high - low or abs(high) or 1.0
        axes.set_ylim(low - 0.08 * spread, high + 0.5 * spread)


def _shade(axes: Axes, test: RangeTest, useful: UsefulRates) -> None:
    bounds = [test.rates[0], useful.smallest, useful.largest, test.rates[-1]]
    # Names of narrow regions at the ends grow outwards, not over their neighbour's.
    places = {
        "too small": (bounds[1], "right"),
        "good": ((bounds[1] * bounds[2]) ** 0.5, "center"),
        "too large": (bounds[2], "left"),
    }
    top = blended_transform_factory(axes.transData, axes.transAxes)
    for (name, color), left, right in zip(_REGIONS.items(), bounds, bounds[1:], strict=False):
        if left >= right:
            continue
        axes.axvspan(left, right, color=color, zorder=0, linewidth=0)
        label = "diverging" if name == "too large" and test.diverged else name
        place, side = places[name]
        axes.text(place, 1.015, label, transform=top, ha=side, va="bottom", color=LIGHT["muted"])
