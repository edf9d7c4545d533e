"""Which stage transfers best of which encoder: a heat map over the studies of a comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from downstream.arms import random_twin
from downstream.depth_choice import favourite
from downstream.report_drawing import NARROW, WIDE, Drawing, count
from downstream.report_heat_map import HeatCell, draw_heat_map
from downstream.report_study import StudyFiles
from pages.figures import new_figure

_CELL_WIDTH, _CELL_HEIGHT = 62.0, 44.0
_LABELS = 190.0
_SURROUND = 80.0


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


def _by_budget(study: StudyFiles) -> dict[int, list[HeatCell]]:
    """Budget -> cells of the lowest one, two, ... stages."""
    return {
        choice["budget"]: _cells(choice, study.summary["arms"])
        for choice in study.summary.get("depths", [])
    }


def _cells(choice: Mapping[str, Any], arms: Mapping[str, Any]) -> list[HeatCell]:
    cells = []
    for arm, accuracy in choice["test"].items():
        text = f"{100 * accuracy:.1f}"
        random = arms.get(random_twin(arm), {}).get(str(choice["budget"]))
        if random is not None:
            text += f"\n{100 * (accuracy - random['mean']):+.1f}".replace("-", "−")
        cells.append(HeatCell(accuracy, text, arm == favourite(choice["chosen"])))
    return cells


def _best(maps: Mapping[str, Mapping[int, Sequence[HeatCell]]], budget: int) -> str:
    of = {name: found[budget] for name, found in maps.items() if budget in found}
    places = [(cell.value, name, depth) for name in of for depth, cell in enumerate(of[name], 1)]
    _, name, depth = max(places)
    return f"{name} up to stage {depth}"


def _figure(
    maps: Mapping[str, Mapping[int, Sequence[HeatCell]]], budgets: Sequence[int], *, narrow: bool
) -> Figure:
    names = list(maps)[::-1]
    depths = max(len(cells) for found in maps.values() for cells in found.values())
    width = NARROW if narrow else WIDE
    across = max(1, int((width - _LABELS) / (_CELL_WIDTH * depths)))
    across = min(across, len(budgets))
    down = math.ceil(len(budgets) / across)
    figure = new_figure(width, down * (_SURROUND + _CELL_HEIGHT * len(names)))
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(budgets):
            axes.set_visible(False)
            continue
        budget = budgets[place]
        draw_heat_map(axes, [_row(maps[name].get(budget, []), depths) for name in names])
        axes.set_title(f"{count(budget)} labels")
        axes.set_xticks(range(depths), [str(depth) for depth in range(1, depths + 1)])
        axes.set_xlabel("stages reused")
        axes.set_yticks(range(len(names)), names if place % across == 0 else [""] * len(names))
    return figure


def _row(cells: Sequence[HeatCell], depths: int) -> list[HeatCell | None]:
    return [*cells, *([None] * (depths - len(cells)))]
