"""Which stage transfers best of which encoder: a heat map over the studies of a comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from downstream.arms import random_twin
from downstream.depth_choice import favourite, stage_of
from downstream.report_drawing import NARROW, WIDE, Drawing, count
from downstream.report_heat_map import HeatCell, draw_heat_map
from downstream.report_study import StudyFiles
from pages.figures import new_figure

_CELL_WIDTH, _CELL_HEIGHT = 62.0, 44.0
_LABELS = 190.0
_SURROUND = 80.0


_Cells = Mapping[str, HeatCell]
"""Stage -> a head on the stages up to it, the lowest first."""
_Maps = Mapping[str, Mapping[int, _Cells]]
"""Encoder -> budget -> cells."""


def depth_map_drawing(studies: Mapping[str, StudyFiles]) -> Drawing | None:
    """Return the heat map, a panel for each budget; None where no two studies have depths."""
    maps = {name: found for name, study in studies.items() if (found := _by_budget(study))}
    if len(maps) < 2:
        return None
    budgets = sorted({budget for found in maps.values() for budget in found})
    best = [f"with {count(budget)} labels {_best(maps, budget)}" for budget in budgets]
    return Drawing(
        "depths",
        lambda narrow: _figure(maps, budgets, narrow=narrow),
        "Accuracy by encoder and number of stages reused",
        f"Highest: {'; '.join(best)}.",
    )


def _by_budget(study: StudyFiles) -> Mapping[int, _Cells]:
    return {
        int(choice["budget"]): _cells(choice, study.summary["arms"])
        for choice in study.summary.get("depths", [])
    }


def _cells(choice: Mapping[str, Any], arms: Mapping[str, Any]) -> _Cells:
    cells = {}
    for arm, accuracy in choice["test"].items():
        text = f"{100 * accuracy:.1f}"
        random = arms.get(random_twin(arm), {}).get(str(choice["budget"]))
        if random is not None:
            text += f"\n{100 * (accuracy - random['mean']):+.1f}".replace("-", "−")
        cells[stage_of(arm)] = HeatCell(accuracy, text, arm == favourite(choice["chosen"]))
    return cells


def _best(maps: _Maps, budget: int) -> str:
    places = [
        (cell.value, f"{name} up to {stage}")
        for name, found in maps.items()
        for stage, cell in found.get(budget, {}).items()
    ]
    return max(places)[1]


def _figure(maps: _Maps, budgets: Sequence[int], *, narrow: bool) -> Figure:
    names = list(maps)[::-1]
    columns, meaning = _columns(maps)
    width = NARROW if narrow else WIDE
    across = max(1, int((width - _LABELS) / (_CELL_WIDTH * len(columns))))
    across = min(across, len(budgets))
    down = math.ceil(len(budgets) / across)
    figure = new_figure(width, down * (_SURROUND + _CELL_HEIGHT * len(names)))
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(budgets):
            axes.set_visible(False)
            continue
        rows = [list(maps[name].get(budgets[place], {}).values()) for name in names]
        draw_heat_map(axes, [row + [None] * (len(columns) - len(row)) for row in rows])
        axes.set_title(f"{count(budgets[place])} labels")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_xlabel(meaning)
        axes.set_yticks(range(len(names)), names if place % across == 0 else [""] * len(names))
    return figure


def _columns(maps: _Maps) -> tuple[Sequence[str], str]:
    """Return the columns' labels and what they mean: stages, where all encoders have the same."""
    found = {tuple(cells) for of_budgets in maps.values() for cells in of_budgets.values()}
    longest = max(found, key=len)
    if len(found) == 1:
        return longest, "highest stage"
    return [str(number) for number in range(1, len(longest) + 1)], "stages reused"
