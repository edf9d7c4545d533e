"""Many convex problems minimized at once, against direct solutions and against each alone."""

import pytest
import torch

from downstream.heads.lbfgs import Evaluation, minimize


class Quadratics:
    """x A x / 2 - b x for each of some problems, float32; notes which were evaluated."""

    def __init__(self, conditions, parameters=20):
        random = torch.Generator().manual_seed(0)
        H = len(conditions)
        axes = torch.linalg.qr(torch.randn(H, parameters, parameters, generator=random))[0]
        powers = torch.linspace(-1, 0, parameters)
        spectrum = torch.tensor(conditions)[:, None] ** powers
        self.curvature = (axes * spectrum[:, None]) @ axes.mT
        self.minima = torch.randn(H, parameters, generator=random)
        self.pull = torch.einsum("hvw,hw->hv", self.curvature, self.minima)
        self.evaluated = []

    def __call__(self, points, problems):
        self.evaluated.append(problems.tolist())
        product = torch.einsum("hvw,hw->hv", self.curvature[problems], points)
        pull = self.pull[problems]
        losses = (points * (product / 2 - pull)).double().sum(dim=1)
        return Evaluation(losses, product - pull, torch.ones_like(points))


def solve(losses, start, **settings):
    return minimize(losses, start, **{"tolerance": 1e-5, "max_steps": 1000, **settings})


def test_each_problem_reaches_its_own_minimum():
    problems = Quadratics([1.0, 10.0, 100.0, 1000.0])
    found = solve(problems, torch.zeros(4, 20))
    assert (found.gradient_norms <= 1e-5).all()
    assert torch.allclose(found.points, problems.minima, atol=0.01)
    assert found.steps[0] < found.steps[3]


def test_a_finished_problem_is_evaluated_no_more():
    problems = Quadratics([1.0, 1000.0, 1.0])
    start = torch.zeros(3, 20)
    start[2] = problems.minima[2]
    found = solve(problems, start)
    assert found.steps[2] == 0
    times = [sum(number in which for which in problems.evaluated) for number in range(3)]
    assert times[2] == 1
    assert times[0] < times[1] / 3
    assert all(which == sorted(which) for which in problems.evaluated)


def test_problems_solved_together_are_those_solved_alone():
    together_losses = Quadratics([3.0, 30.0, 300.0])
    together = solve(together_losses, torch.zeros(3, 20))
    for number in range(3):
        alone_losses = Quadratics([3.0, 30.0, 300.0])
        alone = solve(
            lambda points, problems, of=alone_losses, own=number: of(points, problems + own),
            torch.zeros(1, 20),
        )
        assert torch.allclose(alone.points[0], together.points[number], atol=0.01)


def test_a_problem_that_ran_out_of_steps_shows_it():
    found = solve(Quadratics([1.0, 1000.0]), torch.zeros(2, 20), max_steps=10)
    assert found.gradient_norms[0] <= 1e-5 < found.gradient_norms[1]
    assert found.steps[0] < found.steps[1] == 10


def barrier(points, problems):
    """-log(1 - x^2) - b x for b = 1, 10, 100: no number from |x| = 1 on, and steep near it."""
    pull = 10.0 ** problems[:, None].float()
    losses = (-(1 - points.square()).log() - pull * points).double().sum(dim=1)
    gradients = 2 * points / (1 - points.square()) - pull
    return Evaluation(losses, gradients, torch.ones_like(points))


def test_steps_out_of_the_domain_are_taken_back():
    found = solve(barrier, torch.zeros(3, 1), tolerance=1e-2)
    pull = 10.0 ** torch.arange(3)
    exact = ((1 + pull.square()).sqrt() - 1) / pull
    assert (found.gradient_norms <= 1e-2).all()
    assert found.points[:, 0].numpy() == pytest.approx(exact.numpy(), abs=0.005)


def test_a_problem_without_finite_losses_ends_and_leaves_the_others_alone():
    def losses(points, problems):
        known = barrier(points, problems)
        bad = problems == 1
        return Evaluation(
            torch.where(bad, torch.nan, known.losses),
            torch.where(bad[:, None], torch.nan, known.gradients),
            known.inverse_curvatures,
        )

    found = solve(losses, torch.zeros(3, 1), tolerance=1e-2)
    assert found.gradient_norms[1].isnan() and found.steps[1] <= 2
    undisturbed = solve(barrier, torch.zeros(3, 1), tolerance=1e-2)
    assert torch.equal(found.points[[0, 2]], undisturbed.points[[0, 2]])
