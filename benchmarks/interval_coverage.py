"""How often the 95 % intervals of a study hold the truth, on simulated scores.

    python -m benchmarks.interval_coverage [--simulations 10000] [--draws 5] [--seeds 3]

Scores have crossed random effects: mean + draw + seed + residual, all normal, draws of variance 1.
Three quantities: the mean of an arm; its paired difference to a control that has one fit per draw,
as from scratch; its paired difference to an arm with crossed seeds of its own. Exit status 1 where
a share of the first two is outside 93 to 97 % by more than two of its standard errors.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from downstream.statistics import error_of_mean, half_width
from downstream.two_way import mean_squares

CASES = ("mean", "difference", "difference of crossed arms")
CLAIMED = CASES[:2]
SEED_VARIANCES = (0.0, 1.0, 3.0)
RESIDUAL_VARIANCES = (0.1, 0.3, 1.0, 3.0)
LOW, HIGH = 0.93, 0.97

Array = NDArray[np.float64]


def coverage(
    what: str,
    seed_variance: float,
    residual_variance: float,
    *,
    simulations: int,
    draws: int = 5,
    seeds: int = 3,
) -> float:
    """Return the share of intervals that hold the true value, which is zero.

    In a difference the draws' variance of 1 is what remains of it when what the arms share, how
    hard a draw is, has cancelled.
    """
    random = np.random.default_rng(0)

    def normal(variance: float, *shape: int) -> Array:
        return math.sqrt(variance) * random.normal(size=(simulations, *shape))

    def crossed() -> Array:
        return normal(seed_variance, 1, seeds) + normal(residual_variance, draws, seeds)

    hardness, own = normal(4.0, draws), normal(1.0, draws)
    match what:
        case "mean":
            tables = [own[:, :, None] + crossed()]
            means = tables[0].mean(axis=2)
        case "difference":
            tables = [hardness[:, :, None] + crossed()]
            means = tables[0].mean(axis=2) - (hardness + own)
        case _:
            tables = [hardness[:, :, None] + crossed(), (hardness + own)[:, :, None] + crossed()]
            means = tables[0].mean(axis=2) - tables[1].mean(axis=2)
    half = half_width(*error_of_mean(means, [mean_squares(table) for table in tables]))
    return float((np.abs(means.mean(axis=1)) <= half).mean())


def main() -> int:
    """Print the shares; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    margin = 2 * math.sqrt(HIGH * (1 - HIGH) / args.simulations)
    print(f"{args.draws} draws, {args.seeds} seeds, {args.simulations:,} simulations; covered, %\n")
    heads = [f"seeds {variance:g}" for variance in SEED_VARIANCES]
    print(f"| interval of | residual | {' | '.join(heads)} |")
    print(f"|---|---|{'---|' * len(heads)}")
    inside = True
    for what in CASES:
        for residual in RESIDUAL_VARIANCES:
            shares = [
                coverage(
                    what,
                    seed,
                    residual,
                    simulations=args.simulations,
                    draws=args.draws,
                    seeds=args.seeds,
                )
                for seed in SEED_VARIANCES
            ]
            if what in CLAIMED:
                inside &= all(LOW - margin <= share <= HIGH + margin for share in shares)
            cells = " | ".join(f"{100 * share:.1f}" for share in shares)
            print(f"| {what} | {residual:g} | {cells} |")
    return 0 if inside else 1


if __name__ == "__main__":
    raise SystemExit(main())
