"""Batched heads against scikit-learn and against heads fitted one by one."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from downstream.heads.softmax import (
    SoftmaxChoice,
    SoftmaxConfig,
    choose_strengths,
    fit_chosen,
)
from downstream.heads.standardize import standardize

CONVERGED = SoftmaxConfig(steps=1500, evaluations=1, lr=0.3)


def problem(num_rows: int, *, repeats: int = 1) -> tuple[torch.Tensor, ...]:
    """Rows and labels to learn from, and others to test on; features repeated with noise."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    features = np.tile(images, repeats) + random.normal(size=(len(images), 64 * repeats))
    order = random.permutation(len(labels))
    x, y = torch.tensor(features[order], dtype=torch.float32), torch.tensor(labels[order])
    return x[:num_rows], y[:num_rows], x[num_rows:], y[num_rows:]


def fixed(strength: float, steps: int) -> SoftmaxChoice:
    return SoftmaxChoice(strength, steps, folds=0, cv_accuracy=None, cv_nll=None)


@pytest.mark.parametrize(
    ("num_rows", "repeats"), [(300, 1), (100, 8)], ids=["own basis", "rotated to the row space"]
)
def test_a_converged_head_is_scikit_learns(num_rows, repeats):
    x, y, x_test, y_test = problem(num_rows, repeats=repeats)
    rows, standardizer = standardize(x, floor=0.1)
    assert (standardizer.rotation is not None) == (repeats > 1)
    [head] = fit_chosen(rows[None], y[None], [fixed(0.03, 1500)], CONVERGED, classes=10)
    weight, bias = standardizer.on_raw_features(*head)
    ours = x_test @ weight + bias

    plain = (x - standardizer.mean) / standardizer.scale
    peer = LogisticRegression(C=1 / 0.03, max_iter=5000, tol=1e-8).fit(plain, y)
    theirs = peer.predict_proba((x_test - standardizer.mean) / standardizer.scale)
    assert torch.allclose(ours.softmax(dim=1), torch.tensor(theirs).float(), atol=0.01)
    accuracy = (ours.argmax(dim=1) == y_test).float().mean()
    assert abs(accuracy - (theirs.argmax(axis=1) == y_test.numpy()).mean()) <= 0.005


def test_standardizing_uses_the_labelled_rows_alone():
    x, _, _, _ = problem(100)
    rows, standardizer = standardize(x, floor=0.1)
    assert rows.square().sum(dim=1).mean().item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(rows, (x - x.mean(dim=0)) / standardizer.scale, atol=1e-5)
    # Some of the digits' pixels are hardly ever on: they are not blown up.
    x[:, 0] = 0.0
    _, floored = standardize(x, floor=0.1)
    assert (floored.scale / floored.scale.mean()).min() > 0.05


def test_cross_validation_equals_heads_fitted_one_by_one():
    """Masked heads that share their products are the heads of the folds' own rows."""
    x, y, _, _ = problem(80)
    rows, _ = standardize(x, floor=0.1)
    config = SoftmaxConfig(strengths=(0.01, 0.1), steps=30, evaluations=2, folds=4)
    folds = torch.arange(80) % 4
    folds[folds == 3] = -1  # never held out
    [choice] = choose_strengths(rows[None], y[None], folds[None], config, classes=10)

    found = {}
    for strength in config.strengths:
        for steps in (15, 30):
            losses, hits = [], []
            for fold in range(3):
                inside = folds != fold
                [(weight, bias)] = fit_chosen(
                    rows[inside][None],
                    y[inside][None],
                    [fixed(strength, steps)],
                    config,
                    classes=10,
                )
                logits = rows[~inside] @ weight + bias
                losses.append(
                    torch.nn.functional.cross_entropy(logits, y[~inside], reduction="none")
                )
                hits.append(logits.argmax(dim=1) == y[~inside])
            nll = torch.cat(losses).mean().item()
            found[strength, steps] = nll, torch.cat(hits).float().mean().item()
    best = min(found, key=lambda key: found[key][0])
    assert (choice.strength, choice.steps, choice.folds) == (*best, 3)
    assert choice.cv_nll == pytest.approx(found[best][0], abs=1e-4)
    assert choice.cv_accuracy == pytest.approx(found[best][1], abs=1e-6)


def test_problems_fitted_together_are_those_fitted_alone():
    x, y, _, _ = problem(120)
    parts = [standardize(x[start : start + 60], floor=0.1)[0] for start in (0, 60)]
    labels = y.view(2, 60)
    choices = [fixed(0.01, 20), fixed(0.1, 40)]
    config = SoftmaxConfig(steps=40)
    together = fit_chosen(torch.stack(parts), labels, choices, config, classes=10)
    for position, choice in enumerate(choices):
        [alone] = fit_chosen(
            parts[position][None], labels[position][None], [choice], config, classes=10
        )
        assert torch.allclose(together[position][0], alone[0], atol=1e-5)
        assert torch.allclose(together[position][1], alone[1], atol=1e-5)
