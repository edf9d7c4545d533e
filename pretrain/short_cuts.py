"""Whether a task was too easy or too hard to teach an encoder anything, by its score in a run.

A task that is solved at once has a short-cut (borders, colours, brightness) or asks for nothing;
one that is never solved better than by guessing has no answer in the images (Doersch et al. 2015,
section 3.1; Noroozi & Favaro 2016, section 4.2).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import JsonValue
from torch import Tensor, nn

SOLVED = 0.99
_EARLY = (0.025, 0.05)
_LATE = (0.9, 1.0)
_LEAST_GAIN = 0.02
_UNIT = 1_000_000


@dataclass(frozen=True)
class Score:
    """A metric of a task that is 1 where the task is solved.

    Attributes:
        metric: its name.
        chance: what guessing gives.
        may_be_solved: whether a good encoder may well solve the task by the end of a run.
    """

    metric: str
    chance: float
    may_be_solved: bool = False


class ScoreWatch(nn.Module):
    """Means of a task's score early in a run, at 2.5 % to 5 % of its steps, and in its last tenth.

    They are kept as integers, so that averages of the weights leave them alone.
    """

    sums: Tensor
    rows: Tensor

    def __init__(self, name: str, score: Score) -> None:
        """Watch the score of the task `name`."""
        super().__init__()
        self.task, self.score = name, score
        self.register_buffer("sums", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("rows", torch.zeros(2, dtype=torch.int64))

    @torch.no_grad()
    def note(self, value: Tensor, rows: int, step: int, total_steps: int) -> None:
        """Take in the mean score of some rows in a step, counted from 0."""
        done = (step + 1) / total_steps if total_steps else 0.0
        for window, (first, last) in enumerate((_EARLY, _LATE)):
            if first < done <= last:
                self.sums[window] += (value * _UNIT * rows).round().to(torch.int64)
                self.rows[window] += rows

    def facts(self) -> Mapping[str, JsonValue]:
        """Return the score at the end, where the run is there, and a warning, where one is due."""
        (early, early_rows), (late, late_rows) = self._means()
        facts: dict[str, JsonValue] = {}
        if late_rows:
            facts[f"{self.task}_{self.score.metric}"] = round(late, 4)
        if warning := self._warning(early if early_rows else None, late, late_rows):
            facts[f"{self.task}_warning"] = warning
        return facts

    def _means(self) -> list[tuple[float, int]]:
        pairs = zip(self.sums.tolist(), self.rows.tolist(), strict=True)
        return [(total / _UNIT / max(rows, 1), rows) for total, rows in pairs]

    def _warning(self, early: float | None, late: float, late_rows: int) -> str | None:
        task = f"the task {self.task}"
        metric = self.score.metric
        poor = "so features are likely poor; see the short-cuts in docs/objectives/tasks.md"
        if early is not None and early >= SOLVED:
            return (
                f"{task} was solved at once ({metric} {early:.3f} within the first 5 % of the "
                f"steps): it has a short-cut or asks for little, {poor}"
            )
        if not late_rows:
            return None
        if late >= SOLVED and not self.score.may_be_solved:
            return (
                f"{task} was solved ({metric} {late:.3f} at the end): more steps teach hardly "
                f"anything; if it was solved long before, it has a short-cut, {poor}"
            )
        if late <= self._guessed(late_rows):
            return (
                f"{task} was never solved better than by guessing ({metric} {late:.3f} at the end, "
                f"chance {self.score.chance:.3g}): the images do not tell the answer, or it was "
                "not trained for long enough, so features are likely no better than random ones"
            )
        return None

    def _guessed(self, rows: int) -> float:
        """Return the most that guessing may give over so many rows."""
        chance = self.score.chance
        deviation = math.sqrt(chance * (1 - chance) / rows)
        gain = min(_LEAST_GAIN, chance / 2) if chance > 0 else _LEAST_GAIN
        return chance + max(gain, 3 * deviation)
