"""Budgets: balanced, nested and drawn at random; folds: stratified and even."""

import numpy as np
import pytest

from data.errors import DataError
from data.labels import (
    budget_order,
    check_budget,
    natural_order,
    noisy_labels,
    stratified_folds,
)

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [30, 30, 30, 30, 6]))


def test_an_order_holds_every_row_once():
    order = budget_order(LABELS, draw=0, seed=0)
    assert sorted(order) == list(range(len(LABELS)))


def test_every_beginning_is_balanced_as_far_as_the_classes_go():
    order = budget_order(LABELS, draw=1, seed=7)
    for budget in range(1, len(LABELS) + 1):
        counts = np.bincount(LABELS[order[:budget]], minlength=5)
        available = np.bincount(LABELS)
        unlimited = counts[counts < available]
        assert unlimited.size == 0 or counts.max() - unlimited.min() <= 1


def test_draws_differ_and_repeat():
    first = budget_order(LABELS, draw=0, seed=0)
    assert np.array_equal(first, budget_order(LABELS, draw=0, seed=0))
    for other in (budget_order(LABELS, draw=1, seed=0), budget_order(LABELS, draw=0, seed=1)):
        assert set(first[:10]) != set(other[:10])


def test_every_row_of_a_class_is_drawn_equally_often():
    counts = np.zeros(len(LABELS))
    draws = 600
    for draw in range(draws):
        counts[budget_order(LABELS, draw=draw, seed=0)[:25]] += 1
    share = counts / draws  # 5 of 30, or 5 of 6
    common = LABELS != 4
    assert abs(share[common].mean() - 5 / 30) < 1e-9
    assert np.abs(share[common] - 5 / 30).max() < 5 * np.sqrt(5 / 30 * 25 / 30 / draws)


def test_a_long_tail_has_the_ratio_asked_for_and_lacks_no_class():
    labels = np.repeat(np.arange(5), 400)
    for draw in range(3):
        order = budget_order(labels, draw=draw, seed=0, imbalance=16)
        assert sorted(order) == list(range(len(labels)))
        assert (np.bincount(labels[order[:5]]) == 1).all()
        counts = np.sort(np.bincount(labels[order[:620]], minlength=5))
        assert counts == pytest.approx([20, 40, 80, 160, 320], abs=2)


def test_natural_draws_have_the_frequencies_of_all_labels():
    order = natural_order(LABELS, draw=0, seed=0)
    assert sorted(order) == list(range(len(LABELS)))
    shares = np.mean([LABELS[natural_order(LABELS, draw=d, seed=0)[:20]] == 4 for d in range(500)])
    assert shares == pytest.approx(6 / 126, abs=0.01)


def test_noise_replaces_a_share_of_the_labels_by_other_classes():
    labels = np.repeat(np.arange(5), 400)
    noisy, more = (noisy_labels(labels, share, 5, seed=3) for share in (0.2, 0.4))
    wrong = noisy != labels
    assert wrong.sum() == 400
    assert np.bincount(noisy[wrong], minlength=5).min() > 50
    assert ((more != labels) >= wrong).all() and (more[wrong] == noisy[wrong]).all()


def test_budgets_that_cannot_be_are_refused():
    check_budget(LABELS, len(LABELS), 5)
    check_budget(LABELS, 5, 5)
    with pytest.raises(DataError, match="127 labels asked for, the training set has 126"):
        check_budget(LABELS, 127, 5)
    with pytest.raises(DataError, match="4 labels cannot hold 5 classes"):
        check_budget(LABELS, 4, 5)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_are_even_in_size_and_in_every_class(folds):
    fold = stratified_folds(LABELS, folds, seed=3)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for label in range(5):
        assert np.ptp(np.bincount(fold[label == LABELS], minlength=folds)) <= 1
    assert np.array_equal(fold, stratified_folds(LABELS, folds, seed=3))
    assert not np.array_equal(fold, stratified_folds(LABELS, folds, seed=4))


def test_folds_that_cannot_be_are_refused():
    for folds in (1, len(LABELS) + 1):
        with pytest.raises(DataError, match="folds must be between 2 and the 126 labels"):
            stratified_folds(LABELS, folds, seed=0)
