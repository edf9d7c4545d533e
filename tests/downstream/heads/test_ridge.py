"""Ridge heads against scikit-learn and against refits without each row."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifierCV
from torch.nn.functional import cross_entropy, one_hot

from downstream.heads.problems import Problems
from downstream.heads.ridge import RidgeConfig, decompose, fit_ridge
from downstream.heads.standardize import standardize

SHAPES = pytest.mark.parametrize(
    ("num_rows", "repeats"), [(72, 1), (40, 1), (30, 3)], ids=["tall", "wide", "rotated"]
)


@SHAPES
def test_a_head_is_scikit_learns(digit_problems, num_rows, repeats):
    problems, x_test, _ = digit_problems(num_rows, repeats=repeats)
    [head] = fit_ridge(problems, RidgeConfig(strengths=(0.3,)))
    _, standardizer = standardize(problems.features[0], floor=0.1)

    def plain(x):
        return ((x - standardizer.mean) / standardizer.scale).double()

    peer = Ridge(alpha=0.3).fit(plain(problems.features[0]), one_hot(problems.labels[0]))
    theirs = torch.tensor(peer.predict(plain(x_test)))
    ours = head.logits(x_test).double() * head.choices["temperature"]
    assert torch.allclose(ours, theirs, atol=2e-4)


@SHAPES
def test_left_out_scores_are_those_of_scikit_learn(digit_problems, num_rows, repeats):
    problems, _, _ = digit_problems(num_rows, repeats=repeats)
    labels = problems.labels[0]
    rows = standardize(problems.features[0], floor=0.1)[0].double()
    ridge = decompose(rows, labels, 10)
    strengths = [0.003, 0.1, 3.0]
    peer = RidgeClassifierCV(alphas=strengths, store_cv_results=True).fit(rows, labels)
    for position, strength in enumerate(strengths):
        # Theirs are squared errors on targets of -1 and 1.
        errors = 2 * (ridge.left_out(strength) - ridge.targets)
        theirs = torch.tensor(peer.cv_results_[:, :, position])
        assert torch.allclose(errors.square(), theirs, rtol=1e-5, atol=1e-8)


@SHAPES
def test_the_strength_is_that_of_the_best_refits_without_each_row(
    digit_problems, reference_temperature, num_rows, repeats
):
    problems, _, _ = digit_problems(num_rows, repeats=repeats)
    config = RidgeConfig(strengths=(0.03, 0.3, 3.0, 30.0))
    [head] = fit_ridge(problems, config)
    labels = problems.labels[0]
    rows = standardize(problems.features[0], floor=0.1)[0].double().numpy()
    targets = one_hot(labels, 10).double().numpy()
    found = {}
    for strength in config.strengths:
        scores = []
        for row in range(num_rows):
            others = np.arange(num_rows) != row
            peer = Ridge(alpha=strength).fit(rows[others], targets[others])
            [given] = peer.predict(rows[row : row + 1])
            scores.append(given + targets.mean(axis=0) - targets[others].mean(axis=0))
        scores = torch.tensor(np.stack(scores))
        temperature = reference_temperature(scores, labels)
        nll = cross_entropy(scores / temperature, labels).item()
        accuracy = (scores.argmax(dim=1) == labels).double().mean().item()
        found[strength] = nll, accuracy, temperature
    best = min(found, key=found.get)
    nll, accuracy, temperature = found[best]
    assert head.choices == {
        "strength": best,
        "temperature": pytest.approx(temperature, rel=1e-3),
        "folds": num_rows,
        "cv_accuracy": pytest.approx(accuracy),
        "cv_nll": pytest.approx(nll, abs=1e-4),
    }


def test_likelihoods_on_other_rows_are_near_what_the_labels_promise(digit_problems):
    problems, x_test, y_test = digit_problems(200, draws=3)
    for head in fit_ridge(problems, RidgeConfig()):
        logits = head.logits(x_test)
        nll = cross_entropy(logits, y_test).item()
        best = min(cross_entropy(logits * factor, y_test).item() for factor in np.geomspace(0.2, 5))
        assert nll - best < 0.05


def test_one_label_per_class_takes_the_strongest_penalty(digit_problems):
    problems, x_test, y_test = digit_problems(10, draws=3)
    assert problems.folds is None
    for head in fit_ridge(problems, RidgeConfig()):
        assert head.choices["strength"] == 30.0
        assert head.choices["cv_nll"] is None
        logits = head.logits(x_test)
        assert (logits.argmax(dim=1) == y_test).float().mean() > 0.4
        assert cross_entropy(logits, y_test) < 2


def test_labels_that_are_alone_in_their_class_do_not_count(digit_problems):
    problems, x_test, _ = digit_problems(60)
    nines = problems.labels[0] == 9
    kept = ~nines | (nines.cumsum(dim=0) == 1)
    fewer = Problems(problems.features[:, kept], problems.labels[:, kept], None, 10, 0.1)
    [head] = fit_ridge(fewer, RidgeConfig())
    assert head.choices["folds"] == 54
    assert head.logits(x_test).isfinite().all()
