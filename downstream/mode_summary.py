"""What a study of ways to reuse an encoder shows, from its rows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from downstream.markdown_table import markdown_table
from downstream.mode_rows import ModeRow
from downstream.modes import Auto
from downstream.modes_config import ModesConfig
from downstream.statistics import Interval, in_percent, mean_interval


@dataclass(frozen=True)
class AutoAgainstBest:
    """An automatic mode beside the best single mode in hindsight.

    Fields:
        name: of the automatic mode.
        best: budget -> the single mode with the best mean accuracy over the draws.
        gap: of accuracies, automatic minus best, a fraction, averaged over budgets, with its
            interval over draws.
        taken: budget -> what was learnt in the end -> share of the draws.
    """

    name: str
    best: dict[int, str]
    gap: Interval
    taken: dict[int, dict[str, float]]


@dataclass(frozen=True)
class ModeSummary:
    """Accuracies, fractions in [0, 1], by mode and budget, and how well the automatic modes did."""

    budgets: tuple[int, ...]
    accuracy: dict[str, dict[int, Interval]]
    macro_f1: dict[str, dict[int, Interval]]
    nll: dict[str, dict[int, Interval]]
    seconds: dict[str, dict[int, float]]
    automatic: tuple[AutoAgainstBest, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        return asdict(self)


def summarize_modes(config: ModesConfig, rows: Sequence[ModeRow]) -> ModeSummary:
    """Summarize a finished study, whose config names its modes."""
    modes = config.modes or {}
    by_cell = {
        (mode, budget): [row for row in rows if (row.mode, row.budget) == (mode, budget)]
        for mode in modes
        for budget in config.budgets
    }

    def intervals(score: str) -> dict[str, dict[int, Interval]]:
        return {
            mode: {
                budget: mean_interval(
                    {(row.draw, 0): getattr(row, score) for row in by_cell[mode, budget]}
                )
                for budget in config.budgets
            }
            for mode in modes
        }

    accuracy = intervals("accuracy")
    single = [name for name, mode in modes.items() if not isinstance(mode, Auto)]
    automatic = [name for name, mode in modes.items() if isinstance(mode, Auto)]
    return ModeSummary(
        config.budgets,
        accuracy,
        intervals("macro_f1"),
        intervals("nll"),
        {
            mode: {
                budget: float(np.mean([row.seconds for row in by_cell[mode, budget]]))
                for budget in config.budgets
            }
            for mode in modes
        },
        tuple(_against_best(name, single, accuracy, by_cell) for name in automatic if single),
    )


def _against_best(
    name: str,
    single: Sequence[str],
    accuracy: Mapping[str, Mapping[int, Interval]],
    by_cell: Mapping[tuple[str, int], Sequence[ModeRow]],
) -> AutoAgainstBest:
    budgets = list(accuracy[name])
    best = {budget: max(single, key=lambda mode: accuracy[mode][budget].mean) for budget in budgets}
    scores = {cell: {row.draw: row.accuracy for row in rows} for cell, rows in by_cell.items()}
    gaps = {
        (draw, 0): float(
            np.mean([scores[name, b][draw] - scores[best[b], b][draw] for b in budgets])
        )
        for draw in scores[name, budgets[0]]
    }
    taken = {}
    for budget in budgets:
        counts = Counter(row.taken for row in by_cell[name, budget])
        taken[budget] = {what: count / counts.total() for what, count in counts.most_common()}
    return AutoAgainstBest(name, best, mean_interval(gaps), taken)


def mode_table(summary: ModeSummary) -> str:
    """Return accuracies as a Markdown table, in percent; the best single mode's are bold."""
    bold = {(mode, budget) for found in summary.automatic for budget, mode in found.best.items()}
    rows = {
        mode: [
            f"**{in_percent(interval)}**" if (mode, budget) in bold else in_percent(interval)
            for budget, interval in intervals.items()
        ]
        for mode, intervals in summary.accuracy.items()
    }
    return markdown_table(summary.budgets, rows)


def automatic_lines(summary: ModeSummary) -> list[str]:
    """Return how far each automatic mode is from the best single one, and what it took."""
    lines = []
    for found in summary.automatic:
        side = "ahead of" if found.gap.mean > 0 else "behind"
        gap = in_percent(found.gap, 2).removeprefix("-")
        lines.append(
            f"{found.name} is {gap} points {side} the best single mode in hindsight, averaged over "
            "budgets"
        )
        for budget, shares in found.taken.items():
            taken = ", ".join(f"{what} ({100 * share:.0f} %)" for what, share in shares.items())
            lines.append(f"  {budget:,} labels: took {taken}; best: {found.best[budget]}")
    return lines
