"""LogME, the H-score and CKA against their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from torch.nn import functional as F

from downstream.transferability import h_score, linear_cka, log_me


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@pytest.mark.parametrize(("count", "width"), [(14, 4), (10, 10), (8, 13)])
def test_log_me_is_the_largest_evidence_that_a_search_finds(count: int, width: int) -> None:
    features = drawn(count, width, seed=count)
    targets = features[:, :2] @ drawn(2, 3, seed=1) + 0.5 * drawn(count, 3, seed=2)

    def evidence(logs: np.ndarray, target: np.ndarray) -> float:
        weights, noise = np.exp(logs)
        covariance = np.eye(count) / noise + features.numpy() @ features.numpy().T / weights
        return float(multivariate_normal.logpdf(target, np.zeros(count), covariance))

    best = [
        max(
            -minimize(lambda x, t=target: -evidence(x, t), start, method="Nelder-Mead").fun
            for start in ([0.0, 0.0], [2.0, 1.0], [-1.0, 3.0])
        )
        for target in targets.T.numpy()
    ]
    assert log_me(features, targets) == pytest.approx(np.mean(best) / count, abs=2e-4)


def test_log_me_and_h_score_prefer_features_that_know_the_classes() -> None:
    labels = torch.arange(60) % 3
    targets = F.one_hot(labels).double()
    noise = drawn(60, 5, seed=3)
    telling = noise.clone()
    telling[:, :3] += 3 * targets
    centred = targets - targets.mean(0)
    assert log_me(telling, centred) > log_me(noise, centred) + 0.3
    assert h_score(telling, labels) > h_score(noise, labels) + 1
    assert 0 <= h_score(noise, labels) <= h_score(telling, labels) <= 2


@pytest.mark.parametrize("width", [4, 50])
def test_the_h_score_is_the_trace_of_its_definition(width: int) -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2, 2, 1, 0, 0, 1])
    features = drawn(12, width, seed=width) + labels[:, None]
    rows = features.numpy() - features.numpy().mean(0)
    fitted = LedoitWolf(assume_centered=True).fit(rows)
    means = np.stack([rows[labels.numpy() == label].mean(0) for label in labels])
    between = means.T @ means / len(means)
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.solve(fitted.covariance_, between))
    assert h_score(features, labels) == pytest.approx(expected, rel=1e-8)


def test_cka_knows_no_rotation_and_no_scale_and_finds_nothing_in_noise() -> None:
    one = drawn(60, 8, seed=4)
    rotation, _ = torch.linalg.qr(drawn(8, 8, seed=5))
    assert linear_cka(one, one) == pytest.approx(1)
    assert linear_cka(one, 3 * one @ rotation + 2) == pytest.approx(1)
    other = one[:, :4] @ drawn(4, 6, seed=6) + drawn(60, 6, seed=7)
    assert linear_cka(one, other) == pytest.approx(linear_cka(other, one))
    assert 0.1 < linear_cka(one, other) < 1
    wide = [drawn(30, 2000, seed=seed) for seed in (8, 9)]
    assert abs(linear_cka(*wide)) < 0.05
    centred = [rows - rows.mean(0) for rows in wide]
    kernels = [rows @ rows.T for rows in centred]
    biased = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert biased > 0.9  # what the plain estimate says of the same noise
    assert math.isnan(linear_cka(one, torch.ones(60, 2)))
