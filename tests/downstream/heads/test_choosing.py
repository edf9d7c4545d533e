"""Temperatures against scipy, and what is chosen where settings are equal or labels are few."""

import pytest
import torch
from pydantic import ValidationError

from downstream.heads.choosing import choose, fit_temperatures
from downstream.heads.discriminant import DiscriminantConfig
from downstream.heads.neighbours import NeighboursConfig
from downstream.heads.ridge import RidgeConfig


def scores_of_digits(digit_problems):
    """Inner products of 200 held-out digits with the mean of each class, and their labels."""
    problems, x_test, y_test = digit_problems(100)
    x, y = problems.features[0], problems.labels[0]
    means = torch.stack([x[y == label].mean(dim=0) for label in range(10)])
    centred = means - means.mean(dim=0)
    return (x_test[:200] - x.mean(dim=0)) @ centred.T, y_test[:200]


def test_temperatures_are_the_best_whatever_the_scale_of_scores(
    digit_problems, reference_temperature
):
    scores, labels = scores_of_digits(digit_problems)
    scales = (1e-6, 1.0, 1e6)
    found = fit_temperatures(torch.stack([scores * scale for scale in scales]), labels)
    for scale, temperature in zip(scales, found.tolist(), strict=True):
        expected = reference_temperature((scores * scale).double(), labels)
        assert temperature == pytest.approx(expected, rel=1e-3)


def test_a_few_rows_all_ranked_right_do_not_make_a_head_certain():
    labels = torch.arange(10)
    scores = torch.eye(10)[None]
    temperature = fit_temperatures(scores, labels)
    surest = (scores[0] / temperature).softmax(dim=1).amax(dim=1)
    assert surest.min() > 0.8
    assert surest.max() < 1 - 0.5 / 11


def test_of_settings_that_are_worth_the_same_the_last_is_chosen(digit_problems):
    scores, labels = scores_of_digits(digit_problems)
    worse = scores + torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)) * 50
    choice = choose(torch.stack([scores, worse, scores, worse]), labels, folds=1)
    assert choice.setting == 2
    hits = (scores.argmax(dim=1) == labels).double().mean().item()
    assert choice.cv_accuracy == pytest.approx(hits)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (RidgeConfig, {"strengths": (1.0, 0.1)}),
        (DiscriminantConfig, {"shrinkages": (0.1, 0.1)}),
        (NeighboursConfig, {"neighbours": (5, 1)}),
        (NeighboursConfig, {"vote_temperatures": (0.2, 0.1)}),
    ],
)
def test_settings_out_of_order_are_refused(config, values):
    with pytest.raises(ValidationError, match="must ascend"):
        config(**values)
