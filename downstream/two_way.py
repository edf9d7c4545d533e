"""Scores of draws crossed with seeds: mean squares of the two-way layout, one score in a cell.

Searle, Casella & McCulloch, Variance Components (1992), ch. 4: score = mean + draw effect + seed
effect + residual. The residual holds the interaction of draw and seed and the random numbers of
the fit, which one score in a cell does not tell apart.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of draws, seeds and residual, each of the tables' leading shape [...].

    Their expectations are r + S d, r + D s and r, with variances d, s and r of draws, seeds and
    residual. Degrees of freedom: D - 1, S - 1, (D - 1)(S - 1).
    """

    draw: Array
    seed: Array
    residual: Array
    draws: int
    seeds: int


@dataclass(frozen=True)
class VarianceComponents:
    """What the variance of a single score consists of; an estimate below zero is given as 0."""

    draw: float
    seed: float
    residual: float


def mean_squares(tables: Array) -> MeanSquares:
    """Return the mean squares of tables [..., D, S], with D and S of 2 or more."""
    draws, seeds = tables.shape[-2:]
    mean = tables.mean(axis=(-2, -1))
    of_draws, of_seeds = tables.mean(axis=-1), tables.mean(axis=-2)
    residuals = tables - of_draws[..., :, None] - of_seeds[..., None, :] + mean[..., None, None]
    return MeanSquares(
        draw=seeds * of_draws.var(axis=-1, ddof=1),
        seed=draws * of_seeds.var(axis=-1, ddof=1),
        residual=(residuals**2).sum(axis=(-2, -1)) / ((draws - 1) * (seeds - 1)),
        draws=draws,
        seeds=seeds,
    )


def variance_components(table: Array) -> VarianceComponents:
    """Split the variance of scores [D, S] by the method of moments (ANOVA estimators)."""
    found = mean_squares(table)
    return VarianceComponents(
        draw=max(0.0, float(found.draw - found.residual) / found.seeds),
        seed=max(0.0, float(found.seed - found.residual) / found.draws),
        residual=float(found.residual),
    )
