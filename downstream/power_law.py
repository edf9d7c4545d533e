"""Power laws error(N) = a + b N^-c through learning curves, many curves at once.

Figueroa et al. (2012), "Predicting sample size required for classification performance", fit them
by weighted least squares; Viering & Loog (2022), "The shape of learning curves: a review", say when
they hold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATES = np.geomspace(0.05, 3.0, 150)
"""Rates c that are tried; each is 2.8 % above the one before."""


@dataclass(frozen=True)
class PowerLaws:
    """Fitted parameters, each [...]: asymptote a >= 0, scale b >= 0 and rate c, one of `RATES`."""

    asymptote: Array
    scale: Array
    rate: Array

    def errors(self, labels: float) -> Array:
        """Return the errors [...] with a number of labels."""
        return np.asarray(self.asymptote + self.scale * labels**-self.rate)

    def labels(self, error: float) -> Array:
        """Return the numbers of labels [...] with an error; inf where a curve stays above it."""
        left = error - self.asymptote
        with np.errstate(divide="ignore", over="ignore"):
            reached = (self.scale / np.where(left > 0, left, np.inf)) ** (1 / self.rate)
        return np.where(left > 0, reached, np.inf)


def fit_power_laws(errors: Array, budgets: Array, weights: Array) -> PowerLaws:
    """Fit errors [..., B] at budgets [B] by least squares with weights [B].

    For each rate the other two parameters solve a linear problem with two signs given, so that the
    best of all rates is the best of all, whatever a search would begin with.
    """
    weights = weights / weights.sum()
    powers = (budgets / budgets[0]) ** -RATES[:, None]
    x, xx = powers @ weights, powers**2 @ weights
    e, xe = (errors @ weights)[..., None], (errors * weights) @ powers.T
    b = (xe - x * e) / (xx - x**2)
    a = e - b * x
    a, b = np.where(a < 0, 0.0, a), np.where(a < 0, xe / xx, b)
    a, b = np.where(b < 0, e, a), np.where(b < 0, 0.0, b)
    loss = a**2 + b**2 * xx + 2 * (a * b * x - a * e - b * xe)
    best = loss.argmin(axis=-1)[..., None]
    a, b = (np.take_along_axis(found, best, -1)[..., 0] for found in (a, b))
    rate = RATES[best[..., 0]]
    return PowerLaws(a, b * budgets[0] ** rate, rate)
