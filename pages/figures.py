"""Matplotlib figures as files and as SVG that follows a page's theme.

Figures are `matplotlib.figure.Figure` objects without pyplot; one unit of their SVG is one CSS
pixel at the size for which the figure was made. The same figure always gives the same bytes.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pages.style import LIGHT

_POINTS_PER_INCH = 72
_PICTURE_DPI = 144
_BACKGROUND = "#ffffff"
_FONT = "DejaVu Sans"
_SETTINGS = {
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 1.0,
    "xtick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.color": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "figure.facecolor": "none",
    "font.family": _FONT,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
_DRAWN = re.compile(r'(?<=\s)(?:d|x|y)="[^"]*"')
_BEYOND_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")


@contextmanager
def figure_settings(
    *, salt: str, font_size: float = 12.0, grid: Literal["both", "y", "none"] = "both"
) -> Iterator[None]:
    """Matplotlib's settings while a figure is made and written.

    Args:
        salt: what an SVG's ids are derived from, instead of a random number.
        font_size: CSS pixels.
        grid: across which axes the grid's lines are drawn.
    """
    changed: Any = {
        **_SETTINGS,
        "svg.hashsalt": salt,
        "font.size": font_size,
        "lines.markersize": 0.57 * font_size,
        "axes.grid": grid != "none",
        "axes.grid.axis": "both" if grid == "none" else grid,
    }
    with matplotlib.rc_context(changed):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of width × height CSS pixels that fits margins to the labels of subplots."""
    size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    return Figure(figsize=size, layout="constrained")


def axes_with_margins(figure: Figure, left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes with the given margins in CSS pixels; the figure then leaves all margins alone."""
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches() * _POINTS_PER_INCH
    return figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - bottom - top) / height,
        )
    )


def png(figure: Figure) -> bytes:
    """The figure as a PNG file in the light colours, on white, two pixels for each CSS pixel."""
    figure.set_facecolor(_BACKGROUND)
    figure.set_dpi(_PICTURE_DPI)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})
    return target.getvalue()


def svg_document(figure: Figure) -> str:
    """The figure as an SVG file in the light colours, on white."""
    figure.set_facecolor(_BACKGROUND)
    return _svg(figure).replace(f"'{_FONT}'", f"'{_FONT}', Verdana, Arial, sans-serif")


def inline_svg(
    figure: Figure,
    *,
    name: str,
    title: str,
    description: str = "",
    light: Mapping[str, str] = LIGHT,
    tips: Mapping[str, str] | None = None,
) -> Markup:
    """The figure as an `<svg>` element of a page, announced by `title` and `description`.

    Colours of the light theme become the CSS variables of their roles, so the page's theme
    decides. All ids begin with `name`, which must be the figure's own within the page.

    Args:
        light: role -> hex colour, all different; the page defines a variable for each role.
        tips: gid of an artist -> what is said where a pointer rests on it.
    """
    figure.set_facecolor("none")
    text = _svg(figure)
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    for gid, words in (tips or {}).items():
        text = text.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(words)}</title>')
    text = re.sub(r'(\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(f"font-family: '{_FONT}'; ", "").replace(f"'{_FONT}'", "inherit")
    text = _DRAWN.sub(lambda place: _BEYOND_HUNDREDTHS.sub(r"\1", place[0]), text)
    for role, color in light.items():
        text = text.replace(color, f"var(--{role})")
    width, height = (inches * _POINTS_PER_INCH for inches in figure.get_size_inches())
    content = text[text.index(">", text.index("<svg")) + 1 :].strip()
    parts = {"title": title, "desc": description} if description else {"title": title}
    announced = "".join(
        f'<{tag} id="{name}-{tag}">{escape(words)}</{tag}>' for tag, words in parts.items()
    )
    labels = " ".join(f"{name}-{tag}" for tag in parts)
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' role="img" aria-labelledby="{labels}">{announced}{content}'
    )


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None, "Creator": None})
    return target.getvalue()
