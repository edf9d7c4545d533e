"""Intervals, paired differences and labels saved against hand-made and published numbers."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from downstream.labels_saved import crossings, labels_saved
from downstream.metrics import classification_scores
from downstream.statistics import mean_interval, paired_difference


def test_published_utilities_are_reproduced():
    """AET against supervised training from scratch (CIFAR-10, NIN), errors at labels per class."""
    budgets = (20, 100, 400, 1000, 5000)
    scratch = dict(zip(budgets, (-66.3, -52.7, -25.8, -16.5, -6.9), strict=True))
    aet = dict(zip(budgets, (-34.8, -24.4, -16.3, -12.6, -7.8), strict=True))
    found = labels_saved(aet, scratch)
    # The printed errors are rounded to 0.1, which moves the utilities by up to 0.06.
    assert [s.utility for s in found] == pytest.approx([13.98, 3.94, 1.76, 1.65, -0.07], abs=0.06)
    assert [s.flag for s in found] == [None, None, None, None, "crosses"]
    assert found[0].labels_needed == pytest.approx(299.6, abs=0.1)
    assert crossings(aet, scratch) == [pytest.approx(1000 + 4000 * 3.9 / 4.8)]


def test_bounds_are_flagged_instead_of_extrapolated():
    control = {10: 0.5, 100: 0.7}
    above, below = labels_saved({10: 0.8, 100: 0.9}, control), labels_saved({10: 0.4}, control)
    assert [(s.flag, s.labels_needed, s.saved) for s in above] == [
        ("never_reached", 100, 90),
        ("never_reached", 100, 0),
    ]
    assert [(s.flag, s.labels_needed, s.saved) for s in below] == [("below_start", 10, 0)]


def test_the_interval_over_draws_is_the_t_interval():
    values = [0.70, 0.72, 0.69, 0.74, 0.71]
    interval = mean_interval({(draw, draw): v for draw, v in enumerate(values)})
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.n, interval.seeds) == (5, 1)


def test_one_draw_has_no_interval():
    interval = mean_interval({(0, 0): 0.5, (0, 1): 0.6})
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.55, None, None, 1)
    assert interval.sign == 0


def test_the_interval_over_draws_and_seeds_covers_what_it_says():
    """Both spreads are real: an interval over draws alone would miss the mean far too often."""
    random = np.random.default_rng(0)
    hits = {"draws": 0, "both": 0}
    rounds = 400
    for _ in range(rounds):
        table = 0.7 + 0.01 * random.normal(size=(5, 1)) + 0.01 * random.normal(size=(1, 3))
        table = table + 0.003 * random.normal(size=(5, 3))
        crossed = mean_interval({(d, s): table[d, s] for d in range(5) for s in range(3)})
        draws = mean_interval({(d, 0): table[d].mean() for d in range(5)})
        assert crossed.high - crossed.low >= draws.high - draws.low - 1e-12
        hits["both"] += crossed.low <= 0.7 <= crossed.high
        hits["draws"] += draws.low <= 0.7 <= draws.high
    assert hits["both"] / rounds >= 0.94
    assert hits["draws"] / rounds < 0.92


def test_pairing_removes_what_the_draws_share():
    random = np.random.default_rng(1)
    hardness = 0.05 * random.normal(size=5)
    arm = {(d, s): 0.72 + hardness[d] + 0.001 * random.normal() for d in range(5) for s in range(3)}
    control = {(d, d): 0.70 + hardness[d] + 0.001 * random.normal() for d in range(5)}
    difference = paired_difference(arm, control)
    assert difference.sign == 1
    assert math.isclose(difference.mean, 0.02, abs_tol=0.003)
    assert mean_interval(arm).low < mean_interval(control).high  # unpaired, nothing would show


def test_differences_use_only_the_draws_that_both_arms_have():
    arm = {(d, 0): 0.8 + d for d in range(5)}
    control = {(d, d): 0.7 + d for d in range(2)}
    difference = paired_difference(arm, control)
    assert difference.n == 2
    assert difference.mean == pytest.approx(0.1)
    assert paired_difference({(7, 0): 0.1}, control) is None


def test_scores_agree_with_scikit_learn():
    random = np.random.default_rng(2)
    logits = random.normal(size=(200, 5)).astype(np.float32)
    logits[:, 4] = -9  # a class that is never predicted
    labels = random.integers(0, 5, 200)
    scores = classification_scores(logits, labels)
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert scores.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(
        sklearn_metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    assert scores.nll == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
