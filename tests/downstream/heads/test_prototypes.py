"""Class means against scikit-learn's distances, cosines and nearest centroid."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch.nn.functional import cross_entropy

from downstream.heads.problems import LinearScores, all_logits
from downstream.heads.prototypes import PrototypesConfig, fit_prototypes
from downstream.heads.standardize import standardize

SHAPES = pytest.mark.parametrize(
    ("num_rows", "repeats"), [(100, 1), (60, 3)], ids=["own basis", "rotated to the row space"]
)


def standardized(problems, x):
    """Rows as the head sees them, but never rotated."""
    _, standardizer = standardize(problems.features[0], floor=problems.std_floor)
    return ((x - standardizer.mean) / standardizer.scale).double().numpy()


def peer_scores(distance, rows, labels, others):
    if distance == "cosine":
        rows = normalize(rows)
    means = NearestCentroid().fit(rows, labels).centroids_
    if distance == "cosine":
        return torch.tensor(cosine_similarity(others, means))
    return torch.tensor(-euclidean_distances(others, means, squared=True))


@SHAPES
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_logits_are_distances_to_the_class_means(digit_problems, distance, num_rows, repeats):
    problems, x_test, _ = digit_problems(num_rows, repeats=repeats)
    [head] = fit_prototypes(problems, PrototypesConfig(distance=distance))
    rows, others = (standardized(problems, x) for x in (problems.features[0], x_test))
    theirs = peer_scores(distance, rows, problems.labels[0], others)
    ours = head.logits(x_test).double() * head.choices["temperature"]
    assert torch.allclose(
        ours - ours.mean(dim=1, keepdim=True), theirs - theirs.mean(dim=1, keepdim=True), atol=1e-4
    )
    assert isinstance(head, LinearScores) == (distance == "euclidean")


@SHAPES
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_temperature_is_the_best_on_labels_held_out(
    digit_problems, reference_temperature, distance, num_rows, repeats
):
    problems, _, _ = digit_problems(num_rows, repeats=repeats)
    [head] = fit_prototypes(problems, PrototypesConfig(distance=distance))
    rows, labels = standardized(problems, problems.features[0]), problems.labels[0]
    scores = torch.zeros(num_rows, 10, dtype=torch.float64)
    for fold in range(5):
        outside = (problems.folds[0] == fold).numpy()
        scores[outside] = peer_scores(distance, rows[~outside], labels[~outside], rows[outside])
    scores -= scores.mean(dim=1, keepdim=True)
    temperature = reference_temperature(scores, labels)
    assert head.choices == {
        "temperature": pytest.approx(temperature, rel=1e-3),
        "folds": 5,
        "cv_accuracy": pytest.approx((scores.argmax(dim=1) == labels).double().mean().item()),
        "cv_nll": pytest.approx(cross_entropy(scores / temperature, labels).item(), abs=1e-4),
    }


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_one_label_per_class_is_enough(digit_problems, distance):
    problems, x_test, y_test = digit_problems(10, draws=3)
    heads = fit_prototypes(problems, PrototypesConfig(distance=distance))
    for head, logits in zip(heads, all_logits(heads, x_test), strict=True):
        assert head.choices["folds"] == 0
        assert (logits.argmax(dim=1) == y_test).float().mean() > 0.4
        assert cross_entropy(logits, y_test) < 2


def test_cosines_of_many_rows_are_those_of_each(digit_problems):
    problems, x_test, _ = digit_problems(60, repeats=3)
    [head] = fit_prototypes(problems, PrototypesConfig(distance="cosine"))
    some = np.arange(0, len(x_test), 37)
    assert len(x_test) > 512
    assert torch.allclose(head.logits(x_test)[some], head.logits(x_test[some]), atol=1e-4)
