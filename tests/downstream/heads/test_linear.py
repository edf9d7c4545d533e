"""Logistic and support vector heads against scikit-learn and against heads fitted one by one."""

from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from downstream.heads.linear import fit_all, on_principal_axes
from downstream.heads.logistic import CrossEntropy, LogisticConfig, fit_logistic
from downstream.heads.problems import Problems
from downstream.heads.standardize import standardize
from downstream.heads.svm import SquaredHinge, SvmConfig, fit_svm

KINDS = pytest.mark.parametrize(
    ("fit", "config"),
    [(fit_logistic, LogisticConfig()), (fit_svm, SvmConfig())],
    ids=["logistic", "svm"],
)
BASES = pytest.mark.parametrize(
    ("num_rows", "repeats"),
    [(300, 1), (100, 8), (400, 10)],
    ids=["all principal axes", "rotated to the row space", "the largest principal axes"],
)


def standardized(x, x_test):
    """Rows as scikit-learn is given them: scaled alike, in the features' own basis."""
    _, standardizer = standardize(x, floor=0.1)
    return [((part - standardizer.mean) / standardizer.scale).numpy() for part in (x, x_test)]


def centred(scores):
    """Scores as softmax sees them, without what all classes have in common."""
    return scores - scores.mean(dim=-1, keepdim=True)


@BASES
def test_a_logistic_head_is_scikit_learns(digit_problems, num_rows, repeats):
    problems, x_test, y_test = digit_problems(num_rows, repeats=repeats)
    config = LogisticConfig(strengths=(0.03,), tolerance=1e-6)
    [head] = fit_logistic(replace(problems, folds=None), config)
    assert head.choices["converged"]
    ours = head.logits(x_test)

    plain, plain_test = standardized(problems.features[0], x_test)
    peer = LogisticRegression(C=1 / 0.03, max_iter=5000, tol=1e-8).fit(plain, problems.labels[0])
    theirs = peer.predict_proba(plain_test)
    assert ours.softmax(dim=1).numpy() == pytest.approx(theirs, abs=2e-3)
    accuracy = (ours.argmax(dim=1) == y_test).float().mean()
    assert abs(accuracy - (theirs.argmax(axis=1) == y_test.numpy()).mean()) <= 0.002


@BASES
def test_a_support_vector_head_is_scikit_learns(digit_problems, num_rows, repeats):
    problems, x_test, y_test = digit_problems(num_rows, repeats=repeats)
    config = SvmConfig(strengths=(0.3,), tolerance=1e-5)
    [head] = fit_svm(replace(problems, folds=None), config)
    assert head.choices["converged"]
    margins = head.logits(x_test) * head.choices["temperature"]

    plain, plain_test = standardized(problems.features[0], x_test)
    # Theirs penalizes the bias, which hardly counts where it is the weight of a feature of 100.
    peer = LinearSVC(C=1 / 0.3, dual=False, tol=1e-8, intercept_scaling=100, max_iter=5000)
    theirs = peer.fit(plain, problems.labels[0]).decision_function(plain_test)
    assert margins.numpy() == pytest.approx(theirs, abs=1e-2)
    accuracy = (margins.argmax(dim=1) == y_test).float().mean()
    assert abs(accuracy - (theirs.argmax(axis=1) == y_test.numpy()).mean()) <= 0.002


def test_the_strength_is_the_one_that_scikit_learns_heads_of_the_folds_choose(digit_problems):
    problems, x_test, _ = digit_problems(120)
    folds = torch.arange(120) % 4
    folds[folds == 3] = -1  # never held out
    config = LogisticConfig(strengths=(0.001, 0.03, 1.0), tolerance=1e-5)
    [head] = fit_logistic(replace(problems, folds=folds[None]), config)

    plain, _ = standardized(problems.features[0], x_test)
    y = problems.labels[0]
    found = {}
    for strength in config.strengths:
        losses, hits = [], []
        for fold in range(3):
            inside = folds != fold
            peer = LogisticRegression(C=1 / strength, max_iter=2000, tol=1e-6)
            peer.fit(plain[inside], y[inside])
            logits = torch.tensor(peer.decision_function(plain[~inside]))
            losses.append(F.cross_entropy(logits, y[~inside], reduction="none"))
            hits.append(logits.argmax(dim=1) == y[~inside])
        found[strength] = torch.cat(losses).mean().item(), torch.cat(hits).double().mean().item()
    best = min(found, key=lambda strength: found[strength][0])
    assert (head.choices["strength"], head.choices["folds"]) == (best, 3)
    assert head.choices["cv_nll"] == pytest.approx(found[best][0], abs=1e-3)
    assert head.choices["cv_accuracy"] == pytest.approx(found[best][1], abs=1e-6)
    assert head.choices["cv_unconverged"] == 0


@KINDS
def test_problems_fitted_together_are_those_fitted_alone(digit_problems, fit, config):
    problems, x_test, _ = digit_problems(80, draws=2)
    for draw, head in enumerate(fit(problems, config)):
        own = slice(draw, draw + 1)
        [alone] = fit(
            Problems(problems.features[own], problems.labels[own], problems.folds[own], 10, 0.1),
            config,
        )
        assert alone.choices["strength"] == head.choices["strength"]
        assert (centred(alone.logits(x_test)) - centred(head.logits(x_test))).abs().max() < 0.02


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredHinge()], ids=["logistic", "svm"])
def test_heads_do_not_depend_on_which_are_solved_with_or_before_them(digit_problems, loss):
    problems, _, _ = digit_problems(80)
    y = problems.labels
    rows, _ = on_principal_axes(*standardize(problems.features[0], floor=0.1))
    config = LogisticConfig(tolerance=1e-5)
    fold = torch.arange(80) % 3
    trained = (fold != torch.arange(3)[:, None])[None]
    strengths = (0.3, 1.0, 3.0)
    solved = fit_all([rows], y, strengths, config, loss, classes=10, trained=trained)
    assert solved.converged.all()
    weights, biases = solved.heads(0)
    for number, strength in enumerate(strengths):
        for left_out in range(3):
            kept = fold != left_out
            alone = fit_all([rows[kept]], y[:, kept], [strength], config, loss, classes=10)
            weight, bias = (part[0, 0] for part in alone.heads(0))
            ours = rows @ weights[number, left_out] + biases[number, left_out]
            assert (centred(ours) - centred(rows @ weight + bias)).abs().max() < 0.02


@KINDS
def test_a_head_that_ran_out_of_steps_says_so(digit_problems, fit, config):
    problems, _, _ = digit_problems(100)
    [solved] = fit(problems, config)
    assert solved.choices["converged"] and solved.choices["cv_unconverged"] == 0
    [stopped] = fit(problems, config.model_copy(update={"max_steps": 2}))
    assert not stopped.choices["converged"] and stopped.choices["steps"] == 2
    assert stopped.choices["cv_unconverged"] > 0


@KINDS
def test_a_class_without_labels_and_hardly_any_penalty_are_no_trouble(digit_problems, fit, config):
    problems, x_test, y_test = digit_problems(150)
    kept, known = problems.labels[0] != 3, y_test != 3
    without = Problems(problems.features[:, kept], problems.labels[:, kept], None, 10, 0.1)
    [head] = fit(without, config.model_copy(update={"strengths": (1e-5,)}))
    assert head.choices["converged"]
    assert (head.logits(x_test[known]).argmax(dim=1) == y_test[known]).float().mean() > 0.65


def test_margins_become_log_probabilities(digit_problems):
    problems, x_test, y_test = digit_problems(200)
    [head] = fit_svm(problems, SvmConfig())
    logits = head.logits(x_test)
    fitted = F.cross_entropy(logits, y_test)
    for factor in (0.5, 2.0, head.choices["temperature"]):
        assert fitted < F.cross_entropy(logits * factor, y_test)
