"""A gallery's images as figures of their own, with the words that stand beside them on the page.

Figures are made inside `pages.figures.figure_settings`.
"""

import base64
import io
import math
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from downstream.gallery import Gallery
from downstream.report_drawing import NARROW_FONT, WIDE, Drawing
from downstream.report_gallery import Thumbnail, asked_thumbnails, mistake_thumbnails
from pages.figures import axes_with_margins, new_figure

_LINE = 17.0
_LINES = 3
_GAP = 14.0
_MISTAKES_IN_A_ROW = 8


def gallery_drawings(gallery: Gallery | None, classes: Sequence[str]) -> list[Drawing]:
    """The nearest training images, and the worst mistakes, as far as there are any."""
    if gallery is None:
        return []
    nearest = [[asked, *others] for asked, others in asked_thumbnails(gallery, classes)]
    mistakes = mistake_thumbnails(gallery, classes)
    drawings = [
        Drawing(
            "nearest",
            lambda narrow: _grid(nearest),
            "Nearest training images",
            "Test images on the left, and the training images nearest to each.",
        )
    ]
    if mistakes:
        starts = range(0, len(mistakes), _MISTAKES_IN_A_ROW)
        rows = [mistakes[start : start + _MISTAKES_IN_A_ROW] for start in starts]
        drawings.append(
            Drawing(
                "mistakes",
                lambda narrow: _grid(rows),
                "Worst mistakes",
                "Test images: what each is taken for, how surely, and what it is.",
            )
        )
    return drawings


def _grid(rows: Sequence[Sequence[Thumbnail]]) -> Figure:
    columns = max(map(len, rows))
    breadth = (WIDE + _GAP) / columns
    side = breadth - _GAP
    depth = side + _LINE * _LINES + _GAP
    height = depth * len(rows)
    figure = new_figure(WIDE, height)
    for line, row in enumerate(rows):
        for column, one in enumerate(row):
            left, top = column * breadth, line * depth
            axes = axes_with_margins(figure, left, WIDE - left - side, height - top - side, top)
            axes.imshow(_pixels(one.picture), cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            figure.text(
                left / WIDE,
                1 - (top + side + 4) / height,
                _wrapped([f"{one.strong}{one.words}", one.more], side),
                va="top",
                fontsize=NARROW_FONT,
            )
    return figure


def _wrapped(texts: Sequence[str], side: float) -> str:
    """Texts in lines no wider than an image; a letter is about 0.6 of its height wide."""
    letters = math.floor(side / (0.6 * NARROW_FONT))
    return "\n".join([line for text in texts for line in wrap(text, letters)][:_LINES])


def _pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
