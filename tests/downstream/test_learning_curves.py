"""Resampled curves, labels to a target, labels saved and areas, against what is known of them."""

import numpy as np
import pytest

from benchmarks.curve_coverage import coverage
from downstream.code_length import code_lengths
from downstream.comparing import compare
from downstream.interpolation import labels_reaching
from downstream.labels_to_target import labels_to_targets
from downstream.learning_curve import curve_measures
from downstream.resampled_curves import Bounds, bounds, mean_curves
from downstream.statistics import mean_interval

BUDGETS = np.array([50.0, 100.0, 200.0])
SPREAD = (0.010, -0.004, 0.002, -0.009, 0.001)


def arm(accuracies, *, seeds=1, own=0.0):
    """Five draws around each mean; what the draws share, and what is the arm's own."""
    return {
        budget: {
            (d, s): mean + SPREAD[d] + own * SPREAD[-1 - d] + 0.01 * s
            for d in range(5)
            for s in range(seeds)
        }
        for budget, mean in zip((50, 100, 200), accuracies, strict=True)
    }


def test_a_target_is_reached_between_budgets():
    curves = np.array([[0.6, 0.7, 0.8], [0.6, 0.5, 0.8], [0.8, 0.9, 0.95], [0.3, 0.4, 0.5]])
    linear = labels_reaching(curves, BUDGETS, 0.7, "labels")
    assert linear == pytest.approx([100, 166.667, -np.inf, np.inf], rel=1e-4)
    logarithmic = labels_reaching(curves, BUDGETS, 0.65, "log_labels")
    assert logarithmic == pytest.approx([50 * 2**0.5, 2**0.5 * 100, -np.inf, np.inf])
    each = labels_reaching(curves[:2], BUDGETS, np.array([0.6, 0.75]), "labels")
    assert each == pytest.approx([50, 100 + 100 * 0.25 / 0.3])


def test_at_one_budget_what_is_resampled_has_the_t_interval():
    for seeds in (1, 3):
        scores = arm((0.6, 0.7, 0.8), seeds=seeds, own=0.3)
        if seeds == 3:  # seeds that do not differ: the interval over draws
            scores = {b: {k: v - 0.01 * k[1] for k, v in t.items()} for b, t in scores.items()}
        curve = mean_curves({"frozen": scores})["frozen"]
        expected = mean_interval(scores[100])
        low, high = np.quantile(curve.resampled[:, 1], [0.025, 0.975])
        half = expected.high - expected.mean
        assert curve.means[1] == pytest.approx(expected.mean)
        assert (expected.mean - low, high - expected.mean) == pytest.approx((half, half), rel=0.1)


def test_what_two_arms_share_of_a_draw_cancels_when_they_are_resampled():
    pair = mean_curves({"frozen": arm((0.65, 0.75, 0.85)), "scratch": arm((0.6, 0.7, 0.8))})
    difference = pair["frozen"].minus(pair["scratch"])
    assert np.abs(difference.resampled - 0.05).max() < 1e-9
    assert np.ptp(pair["frozen"].resampled[:, 0]) > 0.02
    again = mean_curves({"scratch": arm((0.6, 0.7, 0.8))})
    assert again["scratch"].means == pytest.approx(pair["scratch"].means)


def test_labels_for_a_target_come_with_an_interval_or_a_bound():
    curves = mean_curves({"frozen": arm((0.6, 0.7, 0.8)), "scratch": arm((0.5, 0.6, 0.66))})
    found = {(f.arm, f.target): f for f in labels_to_targets(curves, (0.55, 0.65, 0.9))}
    assert found["frozen", 0.65].labels == pytest.approx(50 * 2**0.5)
    interval = found["frozen", 0.65].interval
    assert interval.low < 50 * 2**0.5 < interval.high
    # A percentage point is a factor of 2 ** 0.1 here, and half the t interval about one.
    assert interval.high / interval.low == pytest.approx(2**0.2, rel=0.1)
    below, never = found["frozen", 0.55], found["scratch", 0.9]
    assert (below.flag, below.labels, below.interval.low) == ("below_start", 50, None)
    assert (never.flag, never.labels) == ("never_reached", 200)
    assert never.interval == Bounds(200, None)


def test_an_interval_beyond_the_budgets_is_open():
    inside = np.linspace(100, 200, 101)
    assert bounds(inside, 50, 1000) == Bounds(102, 198)
    assert bounds(np.append(inside, [np.inf] * 10), 50, 1000) == Bounds(102, None)
    assert bounds(np.full(9, np.inf), 50, 1000) == Bounds(1000, None)
    assert bounds(np.full(9, -np.inf), 50, 1000) == Bounds(None, 50)


def test_labels_saved_have_an_interval_that_pairs_the_draws():
    steady = {"finetuned": arm((0.65, 0.75, 0.85)), "scratch": arm((0.6, 0.7, 0.8))}
    saved = compare("finetuned", "scratch", steady).saved[50]
    assert saved.saved == pytest.approx(25)
    assert (saved.interval.low, saved.interval.high) == pytest.approx((25, 25))
    noisy = {"finetuned": arm((0.65, 0.75, 0.85)), "scratch": arm((0.6, 0.7, 0.8), own=0.5)}
    interval = compare("finetuned", "scratch", noisy).saved[50].interval
    assert interval.low < 23 and interval.high > 27


def test_area_start_slope_and_end_are_those_of_the_curve():
    curve = mean_curves({"frozen": arm((0.6, 0.7, 0.8))})["frozen"]
    found = curve_measures(curve)
    assert found["area"].value == pytest.approx(0.7)
    assert found["slope"].value == pytest.approx(0.2 / np.log10(4))
    assert (found["start"].value, found["asymptote"].value) == pytest.approx((0.6, 0.8))
    assert found["slope"].low == pytest.approx(found["slope"].high)  # draws move all budgets alike
    expected = mean_interval(arm((0.7, 0.7, 0.7))[50])
    assert found["area"].high == pytest.approx(expected.high, abs=0.001)
    one = mean_curves({"frozen": {50: {(0, 0): 0.5}, 100: {(0, 0): 0.6}}})["frozen"]
    assert curve_measures(one)["area"].low is None
    assert curve_measures(mean_curves({"frozen": {50: {(0, 0): 0.5}}})["frozen"]) == {}


def test_curves_differ_by_start_slope_end_and_area():
    scores = {"finetuned": arm((0.66, 0.74, 0.82), own=0.1), "scratch": arm((0.6, 0.7, 0.8))}
    found = {m.measure: m for m in compare("finetuned", "scratch", scores).measures}
    assert found["start"].value == pytest.approx(0.06)
    assert found["asymptote"].value == pytest.approx(0.02)
    assert found["slope"].value == pytest.approx(-0.04 / np.log10(4))
    assert found["start"].low > 0 and found["slope"].high < 0
    gap = compare("finetuned", "scratch", scores).differences[50]
    assert (found["start"].low, found["start"].high) == pytest.approx((gap.low, gap.high), abs=1e-4)


def test_code_length_is_the_sum_of_blocks_in_bits():
    bit = np.log(2)
    nll = {50: 2.0, 100: 1.0, 200: 0.5}  # bits; that of the largest budget codes nothing
    table = {b: {(d, 0): bit * (v + 10 * SPREAD[d]) for d in range(5)} for b, v in nll.items()}
    found = code_lengths(mean_curves({"frozen": table}), classes=8)["frozen"]
    assert found.bits.value == pytest.approx(50 * 3 + 50 * 2.0 + 100 * 1.0)
    assert (found.uniform, found.labels) == (600, 200)
    half = mean_interval({(d, 0): 150 * 10 * SPREAD[d] for d in range(5)}).high
    assert found.bits.high - found.bits.value == pytest.approx(half, rel=0.1)
    one = mean_curves({"frozen": {50: {(0, 0): 2.0}, 100: {(0, 0): 1.0}}})
    assert code_lengths(one, classes=8)["frozen"].bits.low is None
    assert code_lengths(mean_curves({"frozen": {50: {(0, 0): 2.0}}}), classes=8) == {}


def test_intervals_of_whole_curves_hold_what_they_say():
    for case in ((1, 0.0, 0.3), (3, 1.0, 1.0)):
        assert min(coverage(*case, simulations=200).values()) > 0.9
