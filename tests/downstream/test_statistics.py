"""Intervals, paired differences and labels saved against hand-made and published numbers."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from benchmarks.interval_coverage import coverage
from downstream.labels_saved import crossings, labels_saved
from downstream.metrics import classification_scores
from downstream.multiplicity import holm
from downstream.statistics import (
    error_of_mean,
    half_width,
    mean_interval,
    paired_difference,
)
from downstream.two_way import mean_squares, variance_components


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


@pytest.mark.parametrize("seed_variance", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("residual_variance", [0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("what", ["mean", "difference"])
def test_intervals_hold_what_they_say(what, residual_variance, seed_variance):
    """5 draws crossed with 3 seeds, draws of variance 1.

    The sum of both spreads, never narrower than the interval over draws, was wider than it says: it
    counts the residual twice and holds 98 % where that has a variance of 3.
    """
    share = coverage(what, seed_variance, residual_variance, simulations=10_000)
    assert 0.93 <= share <= 0.973  # two standard errors of the simulation around 97 %


@pytest.mark.parametrize("residual_variance", [0.1, 1.0, 3.0])
def test_with_seeds_in_both_arms_intervals_err_on_the_wide_side(residual_variance):
    shares = [
        coverage("difference of crossed arms", seeds, residual_variance, simulations=10_000)
        for seeds in (0.0, 1.0, 3.0)
    ]
    assert min(shares) >= 0.93 and max(shares) <= 0.98


def test_the_interval_of_a_table_is_the_one_that_is_simulated():
    random = np.random.default_rng(0)
    table = 0.7 + 0.01 * random.normal(size=(5, 1)) + 0.03 * random.normal(size=(1, 3))
    table = table + 0.003 * random.normal(size=(5, 3))
    interval = mean_interval({(d, s): table[d, s] for d in range(5) for s in range(3)})
    half = half_width(*error_of_mean(table.mean(axis=1), [mean_squares(table)]))
    assert interval.high - interval.mean == pytest.approx(half)
    draws = mean_interval({(d, 0): table[d].mean() for d in range(5)})
    assert interval.high - interval.low > 2 * (draws.high - draws.low)
    assert (interval.n, interval.seeds) == (5, 3)


def test_seeds_that_do_not_differ_leave_the_interval_over_draws():
    """Their variance is estimated below zero, so that the residual alone moves their means."""
    table = np.array([[0.70, 0.72], [0.74, 0.72], [0.71, 0.73], [0.76, 0.74]])
    crossed = mean_interval({(d, s): table[d, s] for d in range(4) for s in range(2)})
    draws = mean_interval({(d, 0): table[d].mean() for d in range(4)})
    assert (crossed.low, crossed.high) == pytest.approx((draws.low, draws.high))


def test_variance_is_split_by_the_method_of_moments():
    """Against expectations over many tables, and by hand for a table without residuals."""
    exact = np.array([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])
    found = variance_components(exact)
    assert (found.draw, found.seed, found.residual) == pytest.approx((1.0, 2.0, 0.0))
    random = np.random.default_rng(3)
    tables = (
        2.0 * random.normal(size=(20_000, 5, 1))
        + 1.0 * random.normal(size=(20_000, 1, 3))
        + 0.5 * random.normal(size=(20_000, 5, 3))
    )
    squares = mean_squares(tables)
    assert squares.residual.mean() == pytest.approx(0.25, rel=0.03)
    assert squares.draw.mean() == pytest.approx(0.25 + 3 * 4.0, rel=0.03)
    assert squares.seed.mean() == pytest.approx(0.25 + 5 * 1.0, rel=0.03)


def test_arms_of_the_same_encoders_are_paired_by_seed_too():
    random = np.random.default_rng(4)
    encoders = 0.05 * random.normal(size=3)
    cells = [(d, s) for d in range(5) for s in range(3)]
    arm = {(d, s): 0.72 + encoders[s] + 0.002 * random.normal() for d, s in cells}
    control = {(d, s): 0.70 + encoders[s] + 0.002 * random.normal() for d, s in cells}
    assert paired_difference(arm, control).sign == 0
    paired = paired_difference(arm, control, same_seeds=True)
    assert paired.sign == 1 and paired.mean == pytest.approx(0.02, abs=0.003)


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


def test_p_values_are_those_of_the_paired_t_test():
    arm, control = [0.70, 0.74, 0.71, 0.76, 0.73], [0.69, 0.70, 0.71, 0.74, 0.70]
    found = paired_difference(
        {(d, 0): v for d, v in enumerate(arm)}, {(d, d): v for d, v in enumerate(control)}
    )
    assert found.p == pytest.approx(stats.ttest_rel(arm, control).pvalue)
    assert (found.p < 0.05) == (found.sign != 0)
    equal = paired_difference({(0, 0): 0.5, (1, 0): 0.6}, {(0, 0): 0.5, (1, 1): 0.6})
    constant = paired_difference({(0, 0): 0.5, (1, 0): 0.5}, {(0, 0): 0.25, (1, 1): 0.25})
    assert (equal.p, constant.p) == (None, None)  # a grid of shares, not a spread of zero
    assert (constant.mean, constant.low, constant.high, constant.sign) == (0.25, None, None, 0)


def test_holm_multiplies_by_what_is_left_to_test():
    """By hand: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is not below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


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
