"""Matplotlib figures as files and as SVG that follows the page's theme.

Figures are `matplotlib.figure.Figure` objects without pyplot; one unit of their SVG is one CSS
pixel at the size for which the figure was made. The same figure always gives the same bytes.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from downstream.report_style import LIGHT

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
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 1.0,
    "xtick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.color": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
    "figure.facecolor": "none",
    "font.family": _FONT,
    "svg.fonttype": "none",
}


@contextmanager
def figure_settings(*, salt: str, font_size: float) -> Iterator[None]:
    """Matplotlib's settings while a figure is made and written.

    Args:
        salt: what the figure's ids are derived from, instead of a random number.
        font_size: CSS pixels.
    """
    changed: Any = {
        **_SETTINGS,
        "svg.hashsalt": salt,
        "font.size": font_size,
        "lines.markersize": 0.57 * font_size,
    }
    with matplotlib.rc_context(changed):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of width × height CSS pixels."""
    return Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH))


def svg_document(figure: Figure) -> str:
    """The figure as an SVG file in the light colours, on white."""
    figure.set_facecolor(_BACKGROUND)
    return _svg(figure).replace(f"'{_FONT}'", f"'{_FONT}', Verdana, Arial, sans-serif")


def png_document(figure: Figure) -> bytes:
    """The figure as a PNG file in the light colours, on white, two pixels for each CSS pixel."""
    figure.set_facecolor(_BACKGROUND)
    figure.set_dpi(_PICTURE_DPI)
    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})
    return target.getvalue()


def inline_svg(figure: Figure, *, name: str, title: str, description: str) -> Markup:
    """The figure as an `<svg>` element of a page, announced by `title` and `description`.

    Colours of the light theme become the CSS variables of their roles, so the page's theme
    decides. All ids begin with `name`, which must be the figure's own within the page.
    """
    text = _svg(figure)
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid=")', rf"\g<1>{name}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(f"font-family: '{_FONT}'; ", "")
    for role, color in LIGHT.items():
        text = text.replace(color, f"var(--{role})")
    width, height = (inches * _POINTS_PER_INCH for inches in figure.get_size_inches())
    content = text[text.index(">", text.index("<svg")) + 1 :].strip()
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>'
        f"{content}"
    )


def _svg(figure: Figure) -> str:
    target = io.StringIO()
    FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None, "Creator": None})
    return target.getvalue()
