"""Mean curves as they might have been: resampled over draws and seeds.

There are too few draws and seeds to pick some of them again and again: percentiles of means of
five draws that are picked with replacement hold 84 %. Deviations of draws and seeds are multiplied
by normal random numbers instead (the wild cluster bootstrap: Cameron, Gelbach & Miller, 2008), and
divided by what makes them t distributed. So the percentiles of what is linear in one arm's scores
are the ends of its t interval over draws. Draws and seeds that are crossed have a t each, as in
Behrens' and Fisher's interval of a sum, so that what two arms share of a draw cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from downstream.arms import Arm, is_pretrained
from downstream.statistics import LEVEL, Scores, crossed_table, draw_means, error_of_mean
from downstream.two_way import mean_squares

COUNT = 10_000
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeanCurve:
    """Mean scores [B] at ascending budgets [B], and as resampled [COUNT, B].

    `resampled` is None where some budget has a single draw.
    """

    budgets: Array
    means: Array
    resampled: Array | None

    def by_budget(self) -> dict[int, float]:
        """Return the mean score at each budget."""
        return {int(b): float(mean) for b, mean in zip(self.budgets, self.means, strict=True)}

    def at(self, budgets: Array) -> MeanCurve:
        """Return the curve at some of its budgets, ascending."""
        places = np.searchsorted(self.budgets, budgets)
        resampled = None if self.resampled is None else self.resampled[:, places]
        return MeanCurve(budgets, self.means[places], resampled)

    def minus(self, other: MeanCurve) -> MeanCurve:
        """Return the difference to a curve of the same budgets."""
        means = self.means - other.means
        if self.resampled is None or other.resampled is None:
            return MeanCurve(self.budgets, means, None)
        return MeanCurve(self.budgets, means, self.resampled - other.resampled)


@dataclass(frozen=True)
class Estimate:
    """A value of a curve with its 95 % interval, which is None with a single draw."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bounds:
    """A 95 % interval, open where more than 2.5 % of what was resampled is out of reach.

    `low` is None: it may be below all that was measured; `high` is None: above all of it.
    """

    low: float | None
    high: float | None


def mean_curves(scores: Mapping[Arm, Mapping[int, Scores]]) -> dict[Arm, MeanCurve]:
    """Return the curve of each arm, with the same random numbers for a draw in all of them.

    Arms that reuse the same encoders share the random numbers of their seeds too. The result
    depends on the scores alone.
    """
    random = np.random.default_rng(0)
    keys = {
        key
        for arm, by_budget in scores.items()
        for table in by_budget.values()
        for draw, seed in table
        for key in (("draw", draw), (_seeds_of(arm), seed))
    }
    numbers = {key: random.normal(size=COUNT) for key in sorted(keys)}
    return {
        arm: _mean_curve(by_budget, numbers, _seeds_of(arm)) for arm, by_budget in scores.items()
    }


def estimate(curve: MeanCurve, value: Callable[[Array], Array]) -> Estimate:
    """Return a value of a curve's scores, [..., B] -> [...], with its interval."""
    mean = float(value(curve.means))
    if curve.resampled is None:
        return Estimate(mean, None, None)
    low, high = np.quantile(value(curve.resampled), _TAILS)
    return Estimate(mean, float(low), float(high))


def bounds(values: Array, lowest: float, highest: float) -> Bounds:
    """Return the interval of resampled values that are infinite where they are out of reach.

    Args:
        lowest, highest: the ends of what is within reach. An interval that is wholly above it is
            given from `highest` on.
    """
    low, high = np.quantile(values, _TAILS, method="inverted_cdf")
    return Bounds(
        None if low == -np.inf else float(min(low, highest)),
        None if high == np.inf else float(max(high, lowest)),
    )


def _seeds_of(arm: Arm) -> str:
    return "pretrained" if is_pretrained(arm) else arm


def _mean_curve(
    by_budget: Mapping[int, Scores],
    numbers: Mapping[tuple[str, int], Array],
    seeds: str,
) -> MeanCurve:
    budgets = sorted(by_budget)
    tables = [by_budget[budget] for budget in budgets]
    means = [np.mean(list(draw_means(table).values())) for table in tables]
    resampled = None
    if all(len(draw_means(table)) > 1 for table in tables):
        resampled = np.stack([_resampled(table, numbers, seeds) for table in tables], axis=1)
    return MeanCurve(np.array(budgets, np.float64), np.array(means, np.float64), resampled)


def _resampled(
    scores: Scores,
    numbers: Mapping[tuple[str, int], Array],
    seeds: str,
) -> Array:
    """Resampled means [COUNT] of two or more draws at one budget."""
    by_draw = draw_means(scores)
    values = np.array(list(by_draw.values()))
    of_draws = float(values.var(ddof=1)) / len(values)
    found = values.mean() + _multiplied(
        values, of_draws, [numbers["draw", draw] for draw in by_draw], "draws"
    )
    table = crossed_table(scores)
    if table is not None:
        variance, _ = error_of_mean(values, [mean_squares(table)])
        # The residual in the seeds' means is in the draws' means already.
        of_seeds = max(0.0, float(variance) - of_draws)
        names = sorted({seed for _, seed in scores})
        found += _multiplied(
            table.mean(axis=0), of_seeds, [numbers[seeds, name] for name in names], "seeds"
        )
    return np.asarray(found)


def _multiplied(
    values: Array, variance: float, numbers: Sequence[Array], of: Literal["draws", "seeds"]
) -> Array:
    """Sums [COUNT] of deviations times random numbers, t distributed with a squared scale."""
    deviations = values - values.mean()
    size = float((deviations**2).sum())
    if size == 0:
        return np.zeros(COUNT)
    sums = np.stack(numbers, axis=1) @ (deviations * np.sqrt(variance / size))
    return np.asarray(sums * _widening(len(values) - 1, of))


@lru_cache
def _widening(freedom: int, of: Literal["draws", "seeds"]) -> Array:
    """What normal random numbers are multiplied by to be t distributed: sqrt(df / chi squared).

    Stratified, and in one order for all degrees of freedom.
    """
    random = np.random.default_rng(("draws", "seeds").index(of) + 1)
    levels = random.permutation((np.arange(COUNT) + 0.5) / COUNT)
    return np.asarray(np.sqrt(freedom / (2 * gammaincinv(freedom / 2, levels))))
