"""Nearest neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import cross_entropy

from downstream.heads.neighbours import NeighboursConfig, fit_neighbours
from downstream.heads.problems import Problems, all_logits
from downstream.heads.standardize import standardize

SMOOTHING = 0.03
SHAPES = pytest.mark.parametrize(
    ("num_rows", "repeats"), [(100, 1), (60, 3)], ids=["own basis", "rotated to the row space"]
)


def standardized(problems, x):
    """Rows as the head sees them, but never rotated."""
    _, standardizer = standardize(problems.features[0], floor=problems.std_floor)
    return ((x - standardizer.mean) / standardizer.scale).double().numpy()


def peer_votes(neighbours, temperature, rows, labels, others):
    """Log votes for each of 10 classes, the nearest neighbour's counting 1."""
    peer = KNeighborsClassifier(min(neighbours, len(rows)), metric="cosine").fit(rows, labels)
    distances, places = peer.kneighbors(others)
    votes = torch.full((len(others), 10), SMOOTHING, dtype=torch.float64)
    weights = np.exp((distances[:, :1] - distances) / temperature)
    votes.scatter_add_(1, labels[torch.from_numpy(places)], torch.from_numpy(weights))
    return votes.log()


@SHAPES
def test_votes_are_weighted_as_scikit_learn_weighs_them(digit_problems, num_rows, repeats):
    problems, x_test, _ = digit_problems(num_rows, repeats=repeats)
    config = NeighboursConfig(neighbours=(7,), vote_temperatures=(0.1,))
    [head] = fit_neighbours(problems, config)
    rows, others = (standardized(problems, x) for x in (problems.features[0], x_test))
    peer = KNeighborsClassifier(
        7, metric="cosine", weights=lambda distances: np.exp(-distances / 0.1)
    ).fit(rows, problems.labels[0])
    votes = (head.logits(x_test).double() * head.choices["temperature"]).exp() - SMOOTHING
    ours = votes / votes.sum(dim=1, keepdim=True)
    assert torch.allclose(ours, torch.tensor(peer.predict_proba(others)), atol=1e-4)


@SHAPES
def test_the_votes_chosen_are_the_best_of_peers_fitted_fold_by_fold(
    digit_problems, reference_temperature, num_rows, repeats
):
    problems, _, _ = digit_problems(num_rows, repeats=repeats)
    config = NeighboursConfig(neighbours=(1, 5, 20, 200), vote_temperatures=(0.05, 0.2))
    [head] = fit_neighbours(problems, config)
    rows, labels = standardized(problems, problems.features[0]), problems.labels[0]
    found = {}
    for vote_temperature in config.vote_temperatures:
        for neighbours in config.neighbours:
            scores = torch.zeros(num_rows, 10, dtype=torch.float64)
            for fold in range(5):
                outside = (problems.folds[0] == fold).numpy()
                scores[outside] = peer_votes(
                    neighbours, vote_temperature, rows[~outside], labels[~outside], rows[outside]
                )
            temperature = reference_temperature(scores, labels)
            nll = cross_entropy(scores / temperature, labels).item()
            accuracy = (scores.argmax(dim=1) == labels).double().mean().item()
            found[neighbours, vote_temperature] = nll, accuracy, temperature
    best = min(found, key=found.get)
    nll, accuracy, temperature = found[best]
    assert head.choices == {
        "neighbours": best[0],
        "vote_temperature": best[1],
        "temperature": pytest.approx(temperature, rel=2e-3),
        "folds": 5,
        "cv_accuracy": pytest.approx(accuracy),
        "cv_nll": pytest.approx(nll, abs=1e-3),
    }


def test_one_label_per_class_lets_all_rows_vote(digit_problems):
    problems, x_test, y_test = digit_problems(10, draws=3)
    heads = fit_neighbours(problems, NeighboursConfig())
    for head, logits in zip(heads, all_logits(heads, x_test), strict=True):
        assert head.choices["neighbours"] == 100
        assert (logits.argmax(dim=1) == y_test).float().mean() > 0.4
        assert cross_entropy(logits, y_test) < 2


def test_a_class_without_a_neighbour_stays_possible(digit_problems):
    problems, x_test, _ = digit_problems(60)
    kept = problems.labels[0] != 9
    folds = problems.folds[:, kept]
    fewer = Problems(problems.features[:, kept], problems.labels[:, kept], folds, 10, 0.1)
    [head] = fit_neighbours(fewer, NeighboursConfig())
    shares = head.logits(x_test).softmax(dim=1)
    assert (shares[:, 9] > 0).all()
    assert (shares[:, 9] <= shares.amin(dim=1) + 1e-6).all()


def test_votes_on_many_rows_are_those_on_each(digit_problems):
    problems, x_test, _ = digit_problems(60, repeats=3)
    [head] = fit_neighbours(problems, NeighboursConfig())
    some = np.arange(0, len(x_test), 37)
    assert len(x_test) > 512
    assert torch.allclose(head.logits(x_test)[some], head.logits(x_test[some]), atol=1e-3)
