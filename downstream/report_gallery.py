"""The report's gallery: a map of test images, nearest training images and worst mistakes.

Figures are made inside `pages.figures.figure_settings`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from downstream.gallery import Asked, Embedding, Gallery, Mistake
from downstream.report_drawing import NARROW, NARROW_FONT, WIDE, Drawing
from downstream.report_style import CLASS_ROLES, LIGHT
from pages.figures import axes_with_margins, new_figure

_SHAPES = ("round", "projecting")
"""How the strokes of zero length end that are the points: circles and squares."""
_MOST_CLASSES = len(CLASS_ROLES) * len(_SHAPES)
_STROKE, _NARROW_STROKE = 4.2, 3.2
_LEGEND_LINE = 20.0
_LETTERS = 16
_LEGEND_COLUMNS, _NARROW_LEGEND_COLUMNS = 6, 2


def embedding_drawing(gallery: Gallery | None, classes: Sequence[str]) -> Drawing | None:
    """Test images as points, by the pretrained and by random features; None where there is none."""
    if gallery is None or gallery.embedding is None:
        return None
    embedding = gallery.embedding
    return Drawing(
        "embedding",
        lambda narrow: _embedding_figure(embedding, classes, narrow=narrow),
        "Test images in the plane, by their features",
        f"{len(embedding.rows):,} test images as points coloured by class, near to each other "
        "where their features are alike. The coordinates are in gallery.json.",
    )


def _embedding_figure(embedding: Embedding, classes: Sequence[str], *, narrow: bool) -> Figure:
    labels = np.array(embedding.labels)
    present = np.unique(labels).tolist()
    shown = present[:_MOST_CLASSES]
    columns = _NARROW_LEGEND_COLUMNS if narrow else _LEGEND_COLUMNS
    entries = len(shown) + (len(present) > len(shown))
    legend = 12 + _LEGEND_LINE * -(-entries // columns)
    width, title, gap = (NARROW if narrow else WIDE), 26.0, 20.0
    side = width if narrow else (width - gap) / 2
    panels = (("pretrained features", embedding.pretrained), ("random features", embedding.random))
    height = legend + (len(panels) if narrow else 1) * (side + title)
    figure = new_figure(width, height)
    for number, (words, points) in enumerate(panels):
        left = 0.0 if narrow else number * (side + gap)
        top = title + (number * (side + title) if narrow else 0.0)
        axes = axes_with_margins(figure, left, width - left - side, height - top - side, top)
        _draw_points(
            axes,
            np.array(points),
            labels,
            shown,
            stroke=_NARROW_STROKE if narrow else _STROKE,
        )
        axes.set_title(words, loc="left", fontweight="bold")
    handles = [_handle(place) for place in range(len(shown))]
    names = [_short(classes[label]) for label in shown]
    if len(present) > len(shown):
        handles.append(_mark(LIGHT["muted"], "o"))
        names.append("other classes")
    figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 2 / height),
        ncols=columns,
        fontsize=NARROW_FONT,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.0,
        handletextpad=0.5,
    )
    return figure


def _draw_points(
    axes: Axes,
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    shown: Sequence[int],
    *,
    stroke: float,
) -> None:
    """All points of one embedding; those of a class are one path, which keeps the page small."""
    low, high = points.min(axis=0), points.max(axis=0)
    # Each axis by itself: t-SNE gives directions no meaning.
    margin = 0.03 * (high - low) + 1e-6
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(True)
    axes.spines[:].set_color(LIGHT["rule"])
    others = ~np.isin(labels, shown)
    if others.any():
        axes.add_patch(_points(points[others], LIGHT["muted"], "round", stroke))
    for place, label in enumerate(shown):
        color, shape = _look(place)
        axes.add_patch(_points(points[labels == label], color, shape, stroke))


def _points(points: NDArray[np.float64], color: str, cap: Any, stroke: float) -> PathPatch:
    """Points as strokes of hardly any length: all that is seen is how they end."""
    ends = np.repeat(points, 2, axis=0)
    ends[1::2, 0] += 1e-4 * np.ptp(points[:, 0])
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
    path = Path(ends, codes)
    path.should_simplify = False
    return PathPatch(
        path, facecolor="none", edgecolor=color, linewidth=stroke, capstyle=cap, snap=False
    )


def _look(place: int) -> tuple[str, str]:
    color = LIGHT[CLASS_ROLES[place % len(CLASS_ROLES)]]
    return color, _SHAPES[place // len(CLASS_ROLES)]


def _handle(place: int) -> Line2D:
    color, shape = _look(place)
    return _mark(color, "o" if shape == "round" else "s")


def _mark(color: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="none", marker=marker, markeredgewidth=0, color=color)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


@dataclass(frozen=True)
class Thumbnail:
    """A picture, what is said of it, in bold first, and what more below."""

    picture: str
    alt: str
    strong: str
    words: str
    more: str


def asked_thumbnails(
    gallery: Gallery, classes: Sequence[str]
) -> list[tuple[Thumbnail, list[Thumbnail]]]:
    """Each test image that was asked about, with the training images nearest to it."""
    return [
        (
            Thumbnail(asked.picture, f"Test image: {name}", name, "", "test image"),
            _neighbours(asked, classes),
        )
        for asked in gallery.asked
        for name in [classes[asked.label]]
    ]


def _neighbours(asked: Asked, classes: Sequence[str]) -> list[Thumbnail]:
    return [
        Thumbnail(
            one.picture,
            f"Training image: {classes[one.label]}",
            "" if one.label == asked.label else classes[one.label],
            "same class" if one.label == asked.label else "",
            f"{'' if one.label == asked.label else 'another class, '}{one.cosine:.2f}",
        )
        for one in asked.nearest
    ]


def same_class(gallery: Gallery) -> str:
    """How many of all neighbours shown are of the class that was asked for, in words."""
    nearest = [(asked.label, one.label) for asked in gallery.asked for one in asked.nearest]
    same = sum(label == other for label, other in nearest)
    return f"{same:,} of the {len(nearest):,} neighbours shown"


def mistake_thumbnails(gallery: Gallery, classes: Sequence[str]) -> list[Thumbnail]:
    """The worst mistakes: what each is taken for, how surely, and what it is."""
    return [_mistake(one, classes) for one in gallery.mistakes]


def _mistake(one: Mistake, classes: Sequence[str]) -> Thumbnail:
    truth, predicted = classes[one.label], classes[one.predicted]
    return Thumbnail(
        one.picture,
        f"{truth}, taken for {predicted}",
        predicted,
        f", {100 * one.confidence:.1f}\N{NO-BREAK SPACE}%",
        f"is {truth}",
    )
