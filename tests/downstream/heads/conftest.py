"""Small real problems for heads: scikit-learn's digits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from data.labels import budget_order
from downstream.heads.problems import ChosenInside, Problems, held_out_folds

TRAIN_ROWS = 1200


@pytest.fixture(scope="session")
def digit_problems() -> Callable:
    """Return a function that makes class-balanced problems, with rows and labels to test on.

    `repeats` repeats the 64 pixels with noise.
    """
    images, labels = load_digits(return_X_y=True)

    def make(num_rows: int, *, draws: int = 1, repeats: int = 1):
        noise = np.random.default_rng(0).normal(size=(len(images), 64 * repeats))
        x = torch.tensor(np.tile(images, repeats) + noise, dtype=torch.float32)
        y = torch.tensor(labels)
        rows = np.stack(
            [budget_order(labels[:TRAIN_ROWS], draw=d, seed=0)[:num_rows] for d in range(draws)]
        )
        folds = held_out_folds(y[rows], ChosenInside(), range(draws))
        problems = Problems(x[rows], y[rows], folds, 10, 0.1)
        return problems, x[TRAIN_ROWS:], y[TRAIN_ROWS:]

    return make


@pytest.fixture(scope="session")
def reference_temperature() -> Callable:
    """Return a function that finds by scipy what `fit_temperatures` is to find."""

    def fit(scores: torch.Tensor, labels: torch.Tensor) -> float:
        scale = float(scores.std())
        smoothing = 1 / (len(labels) + 1)

        def loss(log_factor: float) -> float:
            logits = scores / scale * np.exp(log_factor)
            return cross_entropy(logits, labels, label_smoothing=smoothing).item()

        found = minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-7})
        return scale / np.exp(found.x)

    return fit
