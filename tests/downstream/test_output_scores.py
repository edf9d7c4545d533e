"""Scores of several labels at once and of quantities, against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score

from downstream.output_scores import average_precision, headline, scores_of
from models.outputs import MultiLabel, Regression


def test_average_precision_counts_equals_as_one_step():
    generator = np.random.default_rng(0)
    labels = generator.random(60) < 0.3
    for values in (generator.random(60), generator.integers(0, 5, 60) / 5.0):
        wanted = average_precision_score(labels, values)
        assert average_precision(values, labels) == pytest.approx(wanted)


def test_labels_that_no_image_has_are_left_out_of_the_mean():
    values = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    labels[:, 1] = 0
    scores = scores_of(MultiLabel(), values, labels)
    wanted = [average_precision_score(labels[:, k], values[:, k]) for k in (0, 2)]
    assert scores["map"] == pytest.approx(np.mean(wanted))
    assert scores["accuracy"] == pytest.approx(
        float(((values >= 0.5) == (labels > 0)).float().mean())
    )
    assert f"{100 * scores['map']:.1f} %" in headline(MultiLabel(), scores)


def test_errors_of_quantities():
    labels = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * 5
    values = labels + torch.randn(30, 2, generator=torch.Generator().manual_seed(1))
    scores = scores_of(Regression(means=(0, 0), scales=(1, 1)), values, labels)
    assert scores["mae"] == pytest.approx(mean_absolute_error(labels, values), rel=1e-5)
    assert scores["rmse"] == pytest.approx(
        float((labels - values).square().mean().sqrt()), rel=1e-5
    )
    assert scores["r2"] == pytest.approx(r2_score(labels, values), rel=1e-5)
