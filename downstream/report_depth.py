"""The report on depth: which stages to reuse at each number of labels, a heat map and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from downstream.depth_choice import favourite, stage_of
from downstream.report_drawing import NARROW, WIDE, Drawing, count
from downstream.report_heat_map import HeatCell, draw_heat_map
from downstream.report_study import StudyFiles
from downstream.report_tables import Cell, Line, Table, percent, value_cell
from pages.figures import new_figure

_CELL_HEIGHT = 44.0
_SURROUND = 90.0


def depth_drawing(study: StudyFiles) -> Drawing | None:
    """Return the heat map of depth by budget; None where no depth was chosen."""
    choices: Sequence[Mapping[str, Any]] = study.summary.get("depths", [])
    if not choices:
        return None
    words = "; ".join(
        f"with {count(choice['budget'])} labels {stage_of(favourite(choice['chosen']))}"
        for choice in choices
    )
    return Drawing(
        "depth",
        lambda narrow: _figure(choices, narrow=narrow),
        "Accuracy by depth and number of labels",
        f"Chosen on held-out labels: {words}.",
    )


def depth_table(study: StudyFiles) -> Table | None:
    """Return accuracies by depth beside those of the depth that each row chooses, or None."""
    choices: Sequence[Mapping[str, Any]] = study.summary.get("depths", [])
    if not choices:
        return None
    lines = [
        Line(
            f"up to {stage_of(arm)}",
            [
                Cell(
                    f"{100 * choice['test'][arm]:.1f}",
                    f"{100 * choice['held_out'][arm]:.1f} held out",
                    strong=arm == favourite(choice["chosen"]),
                )
                for choice in choices
            ],
            code=arm,
        )
        for arm in reversed(choices[0]["test"])
    ]
    chosen = Line("chosen inside the labels", [_accuracy(c["accuracy"]) for c in choices])
    return Table(
        "depth-table",
        "How deep to reuse",
        "Accuracy in percent on the test images of a head on the frozen stages up to one, and "
        "below it that on labels held out of the N. Bold: what most rows choose by the latter. "
        "Last line: each row with the depth that it chooses, with its 95 % interval.",
        "Stages",
        [f"{count(choice['budget'])} labels" for choice in choices],
        [*lines, chosen],
    )


def _figure(choices: Sequence[Mapping[str, Any]], *, narrow: bool) -> Figure:
    depths = list(choices[0]["test"])
    figure = new_figure(NARROW if narrow else WIDE, _SURROUND + _CELL_HEIGHT * len(depths))
    axes = figure.add_subplot()
    draw_heat_map(axes, [[_cell(choice, arm) for choice in choices] for arm in depths])
    axes.set_xticks(range(len(choices)), [count(choice["budget"]) for choice in choices])
    axes.set_yticks(range(len(depths)), [stage_of(arm) for arm in depths])
    axes.set_xlabel("number of labels")
    axes.set_ylabel("stages up to")
    return figure


def _cell(choice: Mapping[str, Any], arm: str) -> HeatCell:
    value = choice["test"][arm]
    return HeatCell(value, f"{100 * value:.1f}", arm == favourite(choice["chosen"]))


def _accuracy(entry: Mapping[str, Any]) -> Cell:
    return value_cell(entry["mean"], entry["low"], entry["high"], percent)
