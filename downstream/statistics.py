"""Means, paired differences and their 95 % intervals over draws and seeds.

Shape legend: a score table maps (draw, seed) to one score. A draw is one choice of the labelled
images; a seed is one pretraining run (frozen, finetuned) or one set of fresh weights
(random_frozen).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

Scores = Mapping[tuple[int, int], float]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    `n` counts the draws, `seeds` the seeds that were crossed with every draw (1: the spread
    between seeds is not covered). `low` and `high` are None with a single draw, which has no
    spread to measure.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    seeds: int

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval excludes zero on that side, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def in_percent(interval: Interval, digits: int = 1) -> str:
    """Return mean ± half the interval, fractions as percent; the mean alone where it is all."""
    text = f"{100 * interval.mean:.{digits}f}"
    if interval.high is None:
        return text
    return f"{text} ± {100 * (interval.high - interval.mean):.{digits}f}"


def mean_interval(scores: Scores) -> Interval:
    """Mean score of one arm at one budget; see `_interval` for the formula."""
    return _interval(
        _draw_means(scores), [seed_means] if (seed_means := _seed_means(scores)) else []
    )


def paired_difference(scores: Scores, control: Scores) -> Interval | None:
    """Mean of (arm - control) over the draws that both have; None where they share none.

    Pairing by draw removes what makes a draw easy or hard for every arm. Seeds of two arms are
    independent sources of spread, so each arm with crossed seeds adds its own.
    """
    arm_means, control_means = _draw_means(scores), _draw_means(control)
    draws = sorted(arm_means.keys() & control_means.keys())
    if not draws:
        return None
    differences = {draw: arm_means[draw] - control_means[draw] for draw in draws}
    shared = set(draws)
    seed_means = [
        means
        for table in (scores, control)
        if (means := _seed_means({key: v for key, v in table.items() if key[0] in shared}))
    ]
    return _interval(differences, seed_means)


def _interval(draw_means: Mapping[int, float], seed_means: list[dict[int, float]]) -> Interval:
    """t interval of a mean over draws, widened by the spread between crossed seeds.

    se^2 = var(draw means)/n_draws + sum over arms of var(seed means)/n_seeds, with the degrees of
    freedom of Satterthwaite (1946). In a two-way crossed random-effects layout (Searle, Casella &
    McCulloch, Variance Components, 1992, ch. 4) this counts the draw-by-seed interaction twice, so
    it errs on the wide side. It is never narrower than the t interval over draws alone.
    """
    values = np.array([draw_means[draw] for draw in sorted(draw_means)], dtype=np.float64)
    n, mean = len(values), float(values.mean())
    seeds = min((len(means) for means in seed_means), default=1)
    if n < 2:
        return Interval(mean, None, None, n, seeds)
    components = [(float(values.var(ddof=1)) / n, n - 1)]
    half = _quantile(n - 1) * math.sqrt(components[0][0])
    for means in seed_means:
        spread = np.array(list(means.values()), dtype=np.float64)
        components.append((float(spread.var(ddof=1)) / len(spread), len(spread) - 1))
    variance = sum(part for part, _ in components)
    if variance > 0:
        freedom = variance**2 / sum(part**2 / df for part, df in components)
        half = max(half, _quantile(freedom) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half, n, seeds)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))


def _draw_means(scores: Scores) -> dict[int, float]:
    by_draw: dict[int, list[float]] = {}
    for (draw, _), score in sorted(scores.items()):
        by_draw.setdefault(draw, []).append(score)
    return {draw: float(np.mean(values)) for draw, values in by_draw.items()}


def _seed_means(scores: Scores) -> dict[int, float]:
    """Mean of each seed over the draws, if two or more seeds are crossed with all draws."""
    draws = {draw for draw, _ in scores}
    seeds = sorted({seed for _, seed in scores})
    if len(seeds) < 2 or len(scores) != len(draws) * len(seeds):
        return {}
    return {seed: float(np.mean([scores[draw, seed] for draw in sorted(draws)])) for seed in seeds}
