"""Cells of a heat map in the report's colours: the stronger the colour, the higher the value."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from downstream.report_style import LIGHT

_FAINTEST, _STRONGEST = 0.06, 0.62


@dataclass(frozen=True)
class HeatCell:
    """One cell: its value, what is written in it, and whether it has a frame."""

    value: float
    text: str
    framed: bool


def draw_heat_map(axes: Axes, rows: Sequence[Sequence[HeatCell | None]]) -> None:
    """Draw rows of cells, the first at the bottom; None leaves a place empty.

    Centres lie at whole numbers; the colours span the values that are there.
    """
    values = [cell.value for cells in rows for cell in cells if cell is not None]
    low, breadth = min(values), max(max(values) - min(values), 1e-9)
    color = LIGHT["arm-2"]
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            strength = _FAINTEST + (_STRONGEST - _FAINTEST) * (cell.value - low) / breadth
            place = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, facecolor=color, alpha=strength, linewidth=0))
            axes.text(column, row, cell.text, ha="center", va="center")
            if cell.framed:
                inner = (column - 0.46, row - 0.44)
                axes.add_patch(
                    Rectangle(inner, 0.92, 0.88, fill=False, edgecolor=color, linewidth=2.0)
                )
    axes.set_xlim(-0.5, max(len(cells) for cells in rows) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
