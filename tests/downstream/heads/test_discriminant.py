"""Discriminant analysis against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn.functional import cross_entropy

from downstream.heads.discriminant import DiscriminantConfig, fit_discriminant
from downstream.heads.problems import Problems
from downstream.heads.prototypes import PrototypesConfig, fit_prototypes
from downstream.heads.standardize import standardize


def standardized(problems, x):
    """Rows as the head sees them, but never rotated."""
    _, standardizer = standardize(problems.features[0], floor=problems.std_floor)
    return ((x - standardizer.mean) / standardizer.scale).double().numpy()


def peer_scores(shrinkage, rows, labels, others, *, solver="lsqr"):
    """Scikit-learn's log posteriors times the mean variance of a feature within classes."""
    peer = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage, store_covariance=True)
    peer.fit(rows, labels)
    return torch.tensor(peer.decision_function(others) * np.diag(peer.covariance_).mean())


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize(
    ("num_rows", "repeats"), [(203, 1), (55, 1), (57, 4)], ids=["tall", "wide", "rotated"]
)
def test_a_head_is_scikit_learns(digit_problems, num_rows, repeats, shrinkage):
    problems, x_test, _ = digit_problems(num_rows, repeats=repeats)
    [head] = fit_discriminant(problems, DiscriminantConfig(shrinkages=(shrinkage,)))
    rows, others = (standardized(problems, x) for x in (problems.features[0], x_test))
    solver = "lsqr" if repeats > 1 else "eigen"
    theirs = peer_scores(shrinkage, rows, problems.labels[0], others, solver=solver)
    ours = head.logits(x_test).double() * head.choices["temperature"]
    difference = ours - theirs
    difference -= difference.mean(dim=1, keepdim=True)  # what all classes share
    assert difference.abs().max() < 1e-3 * theirs.std()


@pytest.mark.parametrize(
    ("num_rows", "repeats"), [(80, 1), (80, 3)], ids=["tall", "rotated to the row space"]
)
def test_the_shrinkage_is_that_of_the_best_peers_fitted_fold_by_fold(
    digit_problems, reference_temperature, num_rows, repeats
):
    problems, _, _ = digit_problems(num_rows, repeats=repeats)
    config = DiscriminantConfig(shrinkages=(0.05, 0.5, 0.95))
    [head] = fit_discriminant(problems, config)
    rows, labels = standardized(problems, problems.features[0]), problems.labels[0]
    found = {}
    for shrinkage in config.shrinkages:
        scores = torch.zeros(num_rows, 10, dtype=torch.float64)
        for fold in range(5):
            outside = (problems.folds[0] == fold).numpy()
            scores[outside] = peer_scores(
                shrinkage, rows[~outside], labels[~outside], rows[outside]
            )
        temperature = reference_temperature(scores, labels)
        nll = cross_entropy(scores / temperature, labels).item()
        accuracy = (scores.argmax(dim=1) == labels).double().mean().item()
        found[shrinkage] = nll, accuracy, temperature
    best = min(found, key=found.get)
    nll, accuracy, temperature = found[best]
    assert head.choices == {
        "shrinkage": best,
        "temperature": pytest.approx(temperature, rel=2e-3),
        "folds": 5,
        "cv_accuracy": pytest.approx(accuracy),
        "cv_nll": pytest.approx(nll, abs=1e-3),
    }


def test_one_label_per_class_takes_the_nearest_mean(digit_problems):
    problems, x_test, _ = digit_problems(10)
    [head] = fit_discriminant(problems, DiscriminantConfig())
    [means] = fit_prototypes(problems, PrototypesConfig(distance="euclidean"))
    assert head.choices["shrinkage"] == 1.0
    assert torch.allclose(head.logits(x_test), means.logits(x_test), atol=1e-3)


def test_folds_of_one_label_per_class_take_the_strongest_shrinkage(digit_problems):
    """Where no fold knows a variance all shrinkages are worth the same."""
    problems, x_test, y_test = digit_problems(20, draws=3)
    for head in fit_discriminant(problems, DiscriminantConfig()):
        assert head.choices["shrinkage"] == 1.0
        assert cross_entropy(head.logits(x_test), y_test) < 2


def test_a_class_may_lie_in_one_fold_alone(digit_problems):
    problems, x_test, _ = digit_problems(60)
    nines = problems.labels[0] == 9
    kept = ~nines | (nines.cumsum(dim=0) == 1)
    folds = problems.folds[:, kept]
    fewer = Problems(problems.features[:, kept], problems.labels[:, kept], folds, 10, 0.1)
    [head] = fit_discriminant(fewer, DiscriminantConfig())
    assert np.isfinite(head.choices["cv_nll"])
    assert head.logits(x_test).isfinite().all()
