"""What the report's figures share: sizes, marks and numbers.

Sizes are CSS pixels. Every figure exists for a wide page and for a narrow one, a phone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from downstream.report_style import LIGHT, ArmStyle
from downstream.statistics import Interval
from pages.figures import figure_settings, inline_svg, png, svg_document

WIDE, NARROW = 960.0, 340.0
WIDE_FONT, NARROW_FONT = 14.0, 12.0


@dataclass(frozen=True)
class ThemedFigure:
    """A figure as inline SVG, for a wide page and for a narrow one."""

    wide: Markup
    narrow: Markup


def themed(
    name: str,
    draw: Callable[[bool], Figure],
    title: str,
    description: str,
    *,
    light: Mapping[str, str] = LIGHT,
    tips: Mapping[str, str] | None = None,
) -> ThemedFigure:
    """Draw a figure for both widths, in colours that follow the page's theme.

    Args:
        name: what its ids begin with, its own within the page.
        draw: given whether the page is narrow.
        title, description: what announces it.
        light: role -> colour of the page's light theme.
        tips: as `inline_svg` takes them.
    """
    made = []
    for narrow, font in ((False, WIDE_FONT), (True, NARROW_FONT)):
        ids = f"{name}-narrow" if narrow else f"{name}-wide"
        with figure_settings(salt=ids, font_size=font, grid="y"):
            figure = draw(narrow)
            made.append(
                inline_svg(
                    figure,
                    name=ids,
                    title=title,
                    description=description,
                    light=light,
                    tips=tips,
                )
            )
    return ThemedFigure(*made)


@dataclass(frozen=True)
class Drawing:
    """A figure of a page that is also a file: as `themed` takes it, before it is drawn."""

    name: str
    draw: Callable[[bool], Figure]
    title: str
    description: str
    tips: Mapping[str, str] | None = None

    def themed(self) -> ThemedFigure:
        """Draw it for the page, in both widths."""
        return themed(self.name, self.draw, self.title, self.description, tips=self.tips)

    def files(self) -> dict[str, bytes]:
        """Draw it as NAME.png and NAME.svg, wide and in the light colours."""
        with figure_settings(salt=self.name, font_size=WIDE_FONT, grid="y"):
            figure = self.draw(False)
            svg = svg_document(figure)
            return {f"{self.name}.svg": svg.encode(), f"{self.name}.png": png(figure)}


def whisker(
    axes: Axes, place: float, interval: Interval, style: ArmStyle, *, gid: str | None = None
) -> None:
    """Vertical bar from low to high, in percent; none where there is no interval.

    Args:
        gid: what the names of its parts begin with, if they are to have any.
    """
    if interval.low is None or interval.high is None:
        return
    low, mean, high = (100 * value for value in (interval.low, interval.mean, interval.high))
    bar = axes.errorbar(
        [place],
        [mean],
        yerr=[[mean - low], [high - mean]],
        fmt="none",
        color=style.color,
        ecolor=style.color,
        elinewidth=1.6,
        capsize=3.5,
        capthick=1.6,
    )
    for number, part in enumerate(bar.get_children() if gid else ()):
        part.set_gid(f"{gid}-{number}")


def marker_handle(axes: Axes, style: ArmStyle) -> Line2D:
    """An arm's marker alone, for a legend."""
    return axes.plot(
        [],
        [],
        linestyle="none",
        marker=style.marker,
        markeredgewidth=0,
        color=style.color,
    )[0]


def count(count: int) -> str:
    """A count with thousands separated by commas."""
    return f"{count:,}"


def signed(value: float) -> str:
    """A number with its sign, thousands separated by commas."""
    return f"{value:+,.10g}".replace("-", "−") if value else "0"
