"""Rows of a study of ways to reuse an encoder, lines of its results.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from downstream.modes_config import ModesConfig


class ModeKey(NamedTuple):
    """Which row."""

    mode: str
    budget: int
    draw: int


@dataclass(frozen=True)
class ModeRow:
    """A classifier made in one way, and its scores on the test set.

    Fields:
        accuracy, macro_f1: fractions in [0, 1]; nll: nats, before any calibration.
        seconds: wall-clock time of choosing, learning and scoring.
        taken: the attempt that was learnt from all labels, in words.
        decisions: the comparisons inside the labels that led there.
    """

    mode: str
    budget: int
    draw: int
    accuracy: float
    macro_f1: float
    nll: float
    seconds: float
    taken: str
    decisions: list[dict[str, Any]]

    @property
    def key(self) -> ModeKey:
        return ModeKey(self.mode, self.budget, self.draw)


def planned_keys(config: ModesConfig) -> list[ModeKey]:
    """Return every row, draw by draw, so that a study cut short has whole tables."""
    return [
        ModeKey(mode, budget, draw)
        for draw in range(config.draws)
        for budget in config.budgets
        for mode in config.modes or ()
    ]
