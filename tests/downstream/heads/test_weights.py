"""What a label counts, copies of labelled images, and labels other than classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from downstream.heads.build import balanced_weights, fit_heads, heads_of
from downstream.heads.logistic import LogisticConfig
from downstream.heads.problems import Problems
from downstream.heads.ridge import RidgeConfig, decompose
from downstream.heads.softmax import SoftmaxConfig
from downstream.heads.standardize import standardize
from models.outputs import MultiLabel, Regression

SOFTMAX = SoftmaxConfig(strengths=(0.03,), steps=600, evaluations=1)
LOGISTIC = LogisticConfig(strengths=(0.03,))


def test_balanced_weights_make_classes_count_the_same():
    labels = torch.tensor([0] * 6 + [2] * 3)
    weights = balanced_weights(labels, 4)
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[0] * 6 == pytest.approx(float(weights[2] * 3))


@pytest.mark.parametrize("config", [SOFTMAX, LOGISTIC])
def test_class_weights_do_what_scikit_learn_does(digit_problems, config):
    problems, x, _ = digit_problems(200)
    kept = torch.cat([torch.arange(200)[problems.labels[0] > 4], torch.arange(40)]).unique()
    features, labels = problems.features[:, kept], problems.labels[:, kept]
    weights = balanced_weights(labels[0], 10)
    (head,) = heads_of(
        features,
        labels,
        config,
        classes=10,
        std_floor=0.1,
        fold_seeds=[0],
        class_weights=weights[None],
    )
    rows, standardizer = standardize(features[0], floor=0.1)
    model = LogisticRegression(C=1 / 0.03, class_weight="balanced", tol=1e-8, max_iter=5000)
    model.fit(rows.double().numpy(), labels[0].numpy())
    weight, bias = standardizer.on_raw_features(
        torch.tensor(model.coef_.T).float(), torch.tensor(model.intercept_).float()
    )
    wanted = (x @ weight + bias).softmax(dim=1)
    assert (head.logits(x).softmax(dim=1) - wanted).abs().max() < 0.02


@pytest.mark.parametrize(
    ("config", "of_copied"),
    [
        (SOFTMAX, SOFTMAX),
        (LOGISTIC, LOGISTIC),
        # Its strength is one against the sum over rows.
        (RidgeConfig(strengths=(0.1,)), RidgeConfig(strengths=(0.2,))),
    ],
)
def test_copies_equal_to_their_images_change_nothing(digit_problems, config, of_copied):
    problems, x, _ = digit_problems(100)
    plain, copied = (
        heads_of(
            problems.features.repeat(1, 1 + copies, 1),
            problems.labels,
            of_copied if copies else config,
            classes=10,
            std_floor=0.1,
            fold_seeds=[0],
            copies=copies,
        )[0]
        for copies in (0, 1)
    )
    wanted, found = (head.logits(x).softmax(dim=1) for head in (plain, copied))
    assert (wanted - found).abs().max() < 0.03
    assert copied.choices["cv_nll"] == pytest.approx(plain.choices["cv_nll"], rel=0.02)


def test_a_row_is_left_out_with_its_copies(digit_problems):
    problems, _, _ = digit_problems(30)
    rows = problems.features[0].double()
    rows = torch.cat([rows, rows + torch.randn(rows.shape, dtype=torch.float64)])
    labels = problems.labels[0].repeat(2)
    found = decompose(rows, labels, 10).left_out(5.0, copies=1)
    for row in (0, 7):
        kept = torch.arange(60) % 30 != row
        weight, bias = decompose(rows[kept], labels[kept], 10).solution(5.0)
        torch.testing.assert_close(found[[row, row + 30]], rows[[row, row + 30]] @ weight + bias)


def test_several_labels_are_as_many_logistic_regressions(digit_problems):
    problems, x, _ = digit_problems(200)
    digits = problems.labels[0]
    labels = torch.stack([digits % 2, (digits > 4).long()], dim=1).float()
    output = MultiLabel()
    (head,) = fit_heads(replace(problems, labels=labels[None], classes=2, output=output), LOGISTIC)
    rows, standardizer = standardize(problems.features[0], floor=0.1)
    for column in range(2):
        model = LogisticRegression(C=1 / 0.03, tol=1e-8, max_iter=5000)
        model.fit(rows.double().numpy(), labels[:, column].numpy())
        weight, bias = standardizer.on_raw_features(
            torch.tensor(model.coef_.T).float(), torch.tensor(model.intercept_).float()
        )
        found = output.values(head.logits(x))[:, column]
        torch.testing.assert_close(found, (x @ weight + bias)[:, 0].sigmoid(), atol=2e-3, rtol=0.1)


def test_quantities_are_fitted_by_ridge_regression(digit_problems):
    problems, x, _ = digit_problems(100)
    digits = problems.labels[0].float()
    labels = torch.stack([digits, -digits.square()], dim=1)
    output = Regression(means=(0.0, 0.0), scales=(1.0, 1.0))
    config = RidgeConfig(strengths=(0.1, 1.0, 1000.0))
    (head,) = fit_heads(
        Problems(problems.features, labels[None], None, 2, 0.1, output=output), config
    )
    assert head.choices["strength"] < 1000
    rows, standardizer = standardize(problems.features[0], floor=0.1)
    model = Ridge(alpha=head.choices["strength"]).fit(rows.double().numpy(), labels.numpy())
    weight, bias = standardizer.on_raw_features(
        torch.tensor(model.coef_.T).float(), torch.tensor(model.intercept_).float()
    )
    np.testing.assert_allclose(head.logits(x), x @ weight + bias, atol=0.05, rtol=1e-3)
