"""Figures as SVG of a page and as files: theme, ids, labels, and the same bytes every time."""

import io
import re

import pytest
from matplotlib.figure import Figure
from PIL import Image

from pages.figures import axes_with_margins, figure_settings, inline_svg, new_figure, png
from pages.style import LIGHT


def line_figure() -> Figure:
    figure = new_figure(300, 200)
    axes = figure.add_subplot()
    axes.plot([0.1234567, 1.0], [0.0034567, 0.3], color=LIGHT["accent"])
    axes.set_yticks([0.0034567], ["0.0034567"])
    axes.set_title("a $title$ <b>")
    return figure


def line_svg(name: str = "line", **words: str) -> str:
    with figure_settings(salt=name):
        return str(inline_svg(line_figure(), name=name, title="A line", **words))


def test_colours_of_the_theme_become_variables() -> None:
    svg = line_svg()
    assert "var(--accent)" in svg and "var(--ink)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_positions_are_shortened_and_labels_are_not() -> None:
    svg = line_svg()
    assert ">0.0034567<" in svg
    assert ">a $title$ &lt;b&gt;<" in svg
    (path,) = re.findall(r'd="(M [^"]*)" clip-path[^>]*var\(--accent\)', svg)
    assert re.search(r"\.\d\d\b", path) and not re.search(r"\.\d{3}", path)


def test_two_figures_of_a_page_share_no_id() -> None:
    first, second = (set(re.findall(r'\sid="([^"]*)"', line_svg(name))) for name in ("a", "b"))
    assert first and not first & second
    used = re.findall(r'(?:href="|url\()#([^")]*)', line_svg("a"))
    assert used and set(used) <= first


def test_a_figure_is_announced_by_its_title_and_description() -> None:
    assert 'aria-labelledby="line-title"' in line_svg()
    svg = line_svg(description="It <rises>.")
    assert 'aria-labelledby="line-title line-desc"' in svg
    assert '<desc id="line-desc">It &lt;rises&gt;.</desc>' in svg


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert line_svg() == line_svg()
    pictures = []
    for _ in range(2):
        with figure_settings(salt="line"):
            pictures.append(png(line_figure()))
    assert pictures[0] == pictures[1]
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.size == (600, 400)
        assert picture.getpixel((0, 0))[:3] == (255, 255, 255)


@pytest.mark.filterwarnings("error")
def test_axes_placed_by_hand_stay_where_they_are() -> None:
    with figure_settings(salt="x", grid="none"):
        figure = new_figure(400, 200)
        axes = axes_with_margins(figure, left=100, right=0, bottom=50, top=50)
        axes.set_ylabel("a label")
        png(figure)
    assert axes.get_position().bounds == pytest.approx((0.25, 0.25, 0.75, 0.5))
