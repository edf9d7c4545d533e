"""How deep to reuse at each number of labels: chosen on held-out labels, shown on the test set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downstream.arms import Arm, is_pretrained
from downstream.config import CurveConfig
from downstream.results import Row
from downstream.statistics import Interval, mean_interval


@dataclass(frozen=True)
class DepthChoice:
    """Depths at one budget, accuracies as fractions in [0, 1].

    Fields:
        held_out: arm -> mean accuracy of labels held out of the N; test: of test images.
        chosen: arm -> in how many of the rows it had the best held-out accuracy.
        accuracy: on the test images, of the depth that each row chose inside its labels.
    """

    budget: int
    held_out: dict[Arm, float]
    test: dict[Arm, float]
    chosen: dict[Arm, int]
    accuracy: Interval


def depths_of(config: CurveConfig) -> list[Arm]:
    """Return arms that are depths of the pretrained encoder, the lowest first.

    They are of the user's own and differ in their stages alone, as those of `frozen_each_depth`.
    """
    return [
        arm.name
        for arm in config.arms
        if not isinstance(arm, str)
        and arm.fits_head
        and arm.head is None
        and arm.stages is not None
        and is_pretrained(arm.name)
    ]


def depth_choices(config: CurveConfig, rows: Sequence[Row]) -> list[DepthChoice]:
    """Return what every budget chooses among the depths of the pretrained encoder.

    Of equally good ones the deepest is chosen. Budgets whose labels are too few to hold any out, or
    that have not every depth yet, are left out.
    """
    depths = depths_of(config)
    if len(depths) < 2:
        return []
    found = []
    for budget in config.budgets:
        own = [row for row in rows if row.budget == budget and row.arm in depths]
        cells = sorted({(row.draw, row.seed) for row in own})
        by_key = {(row.arm, row.draw, row.seed): row for row in own}
        whole = len(own) == len(depths) * len(cells)
        if not cells or not whole or any(_held_out(row) is None for row in own):
            continue
        taken = {}
        for cell in cells:
            scores = [(_held_out(by_key[arm, *cell]), place) for place, arm in enumerate(depths)]
            taken[cell] = depths[max(scores)[1]]
        by_depth = {arm: [row for row in own if row.arm == arm] for arm in depths}
        found.append(
            DepthChoice(
                budget,
                {arm: _mean([_held_out(r) or 0.0 for r in part]) for arm, part in by_depth.items()},
                {arm: _mean([r.accuracy for r in part]) for arm, part in by_depth.items()},
                {arm: list(taken.values()).count(arm) for arm in depths},
                mean_interval({c: by_key[arm, *c].accuracy for c, arm in taken.items()}),
            )
        )
    return found


def favourite(chosen: Mapping[Arm, int]) -> Arm:
    """Return the depth that most rows chose, the deepest of equals.

    Args:
        chosen: depth -> in how many rows it was chosen, the lowest first.
    """
    return max(reversed(list(chosen)), key=lambda arm: chosen[arm])


def stage_of(arm: Arm) -> str:
    """Return the stage up to which an arm of `frozen_each_depth` sees, as readers are told."""
    return arm.removeprefix("frozen_").replace("_", " ")


def _held_out(row: Row) -> float | None:
    accuracy: float | None = row.choices.get("cv_accuracy")
    return accuracy


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
