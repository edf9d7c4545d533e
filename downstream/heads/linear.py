"""Linear heads of a convex loss, solved to convergence, many at once.

Shapes: D problems of equal size (draws), N labelled rows, F features, P features after rotation,
C classes, S strengths, K sets of rows to learn from (all but a fold each, or one of all), A heads
of one problem not solved yet, M held-out rows, V = C * P + C parameters of a head.

A head minimizes the mean loss of its scores + strength / N / 2 * |W|^2 (the bias is free) by
L-BFGS. The gradients are written out: all heads of a problem then share two matrix products per
step. Rows lie along their principal axes, where the curvature by a weight is about that by its
score times the variance along its axis: told so, L-BFGS takes half as many steps or fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol

import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from torch import Tensor

from downstream.heads.choosing import Choice, ascending, linear_head
from downstream.heads.lbfgs import Evaluation, minimize
from downstream.heads.problems import ChosenInside, Inference, LinearScores, Problems
from downstream.heads.standardize import Standardizer, standardize

_TYPICAL_STEPS = 40
# With fewer heads a matrix product waits for its rows.
_HEADS_AT_ONCE = 6
_SMALLEST_CURVATURE = 1e-4
# How many principal axes of many features are found, and by how many iterations.
_AXES = 128
_ITERATIONS = 2


Strengths = Annotated[
    tuple[PositiveFloat, ...],
    AfterValidator(ascending),
    Field(
        min_length=1,
        description="L2 strengths to choose from, weakest first; each is divided by the number of "
        "labels",
    ),
]


class SolvedConfig(ChosenInside):
    """Strengths that a linear head of a convex loss chooses from, and when it counts as solved.

    Rows are scaled to a mean squared length of 1, so that strengths and the tolerance mean the same
    for any number of features.
    """

    inference: ClassVar[Inference] = "inductive"
    strengths: Strengths
    tolerance: float = Field(
        3e-5, gt=0, description="a head is solved once its gradient is no longer than this"
    )
    max_steps: PositiveInt = Field(
        1000, description="L-BFGS steps after which a head is taken as it is, and says so"
    )


class HeadLoss(Protocol):
    """A loss that is convex in the scores, and how its strength is chosen."""

    def __call__(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses [A, N] of scores [A, C, N], and two derivatives by each score.

        First and second derivatives are [A, C, N]. The scores may be overwritten.

        Args:
            labels: [N], in [0, C).
        """
        ...

    def choose(self, scores: Tensor, labels: Tensor, weights: Tensor, *, folds: int) -> Choice:
        """Choose one of S strengths by held-out scores [S, M, C] with labels [M].

        Args:
            weights: [M], what each row counts.
        """
        ...

    def unchosen(self, scores: Tensor, *, setting: int) -> Choice:
        """Take a strength where no label can be held out; scores [N, C] are of the head's rows."""
        ...


@dataclass(frozen=True)
class Solved:
    """Heads on D problems.

    Fields:
        parameters: [D, S, K, V]; weights class by class, then biases.
        steps: int64 [D, S, K]; how many were taken.
        converged: bool [D, S, K].
        classes: C.
    """

    parameters: Tensor
    steps: Tensor
    converged: Tensor
    classes: int

    def heads(self, problem: int) -> tuple[Tensor, Tensor]:
        """Return weights [S, K, P, C] and biases [S, K, C] of a problem."""
        flat = self.parameters[problem]
        weight, bias = flat[..., : -self.classes], flat[..., -self.classes :]
        return weight.unflatten(-1, (self.classes, -1)).mT, bias


@torch.no_grad()
def fit_linear(problems: Problems, config: SolvedConfig, loss: HeadLoss) -> list[LinearScores]:
    """Choose the strength of each problem inside its labels, then fit it on all of them.

    A head's `choices` say after how many `steps` it ended, whether it `converged`, and how many of
    the heads by which its strength was chosen did not: `cv_unconverged`.
    """
    prepared = [
        on_principal_axes(*standardize(raw, floor=problems.std_floor)) for raw in problems.features
    ]
    rows = [part for part, _ in prepared]
    labels, folds, classes = problems.labels, problems.folds, problems.classes
    D, N = labels.shape[:2]
    counted = rows[0].new_ones(D, N) if problems.weights is None else problems.weights
    # The strongest penalty is what few labels want where none can be held out.
    settings, unconverged = [len(config.strengths) - 1] * D, [0] * D
    choices, start = None, None
    if folds is not None:
        fold = torch.arange(int(folds.max()) + 1, device=folds.device)
        trained = (folds[:, None] != fold[:, None]) * counted[:, None]
        tried = fit_all(
            rows, labels, config.strengths, config, loss, classes=classes, trained=trained
        )
        choices = [
            loss.choose(*_held_out(tried, problem, *parts), folds=len(fold))
            for problem, parts in enumerate(zip(rows, labels, folds, counted, strict=True))
        ]
        settings = [choice.setting for choice in choices]
        unconverged = (~tried.converged).sum(dim=(1, 2)).tolist()
        # What has learnt from most rows is close to what learns from all.
        chosen = [own[setting] for own, setting in zip(tried.parameters, settings, strict=True)]
        start = torch.stack(chosen).mean(dim=1)[:, None, None]
    strengths = rows[0].new_tensor([[config.strengths[setting]] for setting in settings])
    solved = _solve(rows, labels, counted[:, None], strengths, start, config, loss, classes)
    fitted = []
    for problem, (own, standardizer) in enumerate(prepared):
        weight, bias = (part[0, 0] for part in solved.heads(problem))
        if choices is None:
            choice = loss.unchosen(own @ weight + bias, setting=settings[problem])
        else:
            choice = choices[problem]
        fitted.append(
            linear_head(
                (weight, bias),
                standardizer,
                choice,
                strength=config.strengths[choice.setting],
                steps=int(solved.steps[problem]),
                converged=bool(solved.converged[problem]),
                cv_unconverged=unconverged[problem],
            )
        )
    return fitted


def linear_flops(config: SolvedConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    heads = config.held_out_folds(labels) * len(config.strengths) + 1
    steps = 4 * _TYPICAL_STEPS * heads * classes * labels
    if 2 * labels <= features:
        return steps * labels
    if features <= 4 * _AXES:
        return steps * features + 4 * labels * features**2 + 9 * features**3
    passes = 2 * (_ITERATIONS + 1) + 3
    return steps * features + 2 * passes * labels * features * _AXES + 4 * features**2 * _AXES


def on_principal_axes(rows: Tensor, standardizer: Standardizer) -> tuple[Tensor, Standardizer]:
    """Rotate standardized rows [N, P] so that the features of most variance are uncorrelated.

    Rows that `standardize` has rotated are so already.
    """
    if standardizer.rotation is not None:
        return rows, standardizer
    P = rows.shape[1]
    if P <= 4 * _AXES:
        _, axes = torch.linalg.eigh((rows.T @ rows).double())
        rotation = axes.to(rows.dtype)
        return rows @ rotation, replace(standardizer, rotation=rotation)
    # Along the other axes variances are small and much alike: knowing them too saves few steps,
    # and decomposing all of them would take longer than solving the heads.
    reflections = torch.geqrf(_largest_axes(rows))
    rotation = torch.ormqr(*reflections, torch.eye(P, dtype=rows.dtype, device=rows.device))
    rotated = torch.ormqr(*reflections, rows, left=False)
    return rotated, replace(standardizer, rotation=rotation)


def _largest_axes(rows: Tensor) -> Tensor:
    """Return about the first principal axes of rows [N, P] as columns [P, _AXES].

    By the randomized subspace iteration of Halko, Martinsson & Tropp (2011).
    """
    drawn = torch.randn(rows.shape[1], _AXES, generator=torch.Generator().manual_seed(0))
    axes = rows.T @ (rows @ drawn.to(rows))
    for _ in range(_ITERATIONS):
        axes = rows.T @ (rows @ torch.linalg.qr(axes).Q)
    basis = torch.linalg.qr(axes).Q
    within = rows @ basis
    _, turn = torch.linalg.eigh((within.T @ within).double())
    return basis @ turn.to(rows.dtype)


@torch.no_grad()
def fit_all(
    rows: Sequence[Tensor],
    labels: Tensor,
    strengths: Sequence[float],
    config: SolvedConfig,
    loss: HeadLoss,
    *,
    classes: int,
    trained: Tensor | None = None,
) -> Solved:
    """Fit a head at each strength on each set of rows of each problem.

    Strengths are solved from the strongest on, a few at once, and each few begin where the one
    before ended.

    Args:
        rows: D of [N, P], with mean 0 and, for fewer steps, on their principal axes.
        labels: [D, N], in [0, C).
        strengths: S of them, per label, weakest first.
        config: tolerance and steps; its strengths do not count.
        trained: [D, K, N], what each row counts to a head, 0 or False: it is not learnt from; None:
            one head learns from all.
    """
    D, N = labels.shape[:2]
    if trained is None:
        trained = torch.ones(D, 1, N, dtype=torch.bool, device=labels.device)
    strongest_first = rows[0].new_tensor(strengths).flip(0)
    at_once = max(1, _HEADS_AT_ONCE // trained.shape[1])
    parts: list[Solved] = []
    for few in strongest_first.split(at_once):
        start = parts[-1].parameters[:, -1:] if parts else None
        of_each = few.expand(D, -1)
        parts.append(_solve(rows, labels, trained, of_each, start, config, loss, classes))
    return Solved(
        torch.cat([part.parameters for part in parts], dim=1).flip(1),
        torch.cat([part.steps for part in parts], dim=1).flip(1),
        torch.cat([part.converged for part in parts], dim=1).flip(1),
        classes,
    )


def _solve(
    rows: Sequence[Tensor],
    labels: Tensor,
    trained: Tensor,
    strengths: Tensor,
    start: Tensor | None,
    config: SolvedConfig,
    loss: HeadLoss,
    classes: int,
) -> Solved:
    """Solve heads at strengths [D, S] together, from `start` [D, 1, K, V] or from zero."""
    (D, K, _), S, P = trained.shape, strengths.shape[1], rows[0].shape[1]
    if start is None:
        start = rows[0].new_zeros(D, 1, K, classes * P + classes)
    heads = _Heads(rows, labels, trained, strengths, loss, classes)
    minima = minimize(
        heads,
        start.expand(D, S, K, -1).flatten(0, 2),
        tolerance=config.tolerance,
        max_steps=config.max_steps,
    )
    return Solved(
        minima.points.view(D, S, K, -1),
        minima.steps.view(D, S, K),
        (minima.gradient_norms <= config.tolerance).view(D, S, K),
        classes,
    )


class _Heads:
    """The objectives of S * K heads on each of D problems, as `minimize` takes them.

    Args:
        rows: D of [N, P].
        labels: [D, N], or [D, N, C] where the loss is of several labels at once.
        trained: [D, K, N], what each row counts.
        strengths: [D, S], per label.
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        labels: Tensor,
        trained: Tensor,
        strengths: Tensor,
        loss: HeadLoss,
        classes: int,
    ) -> None:
        self._rows, self._labels, self._loss, self._classes = rows, labels, loss, classes
        count = trained.sum(dim=2)
        # A head's loss is a mean over its own rows.
        self._share = (trained / count[:, :, None]).to(rows[0].dtype)
        self._decay = (strengths[:, :, None] / count[:, None]).flatten()[:, None]
        self._heads = len(self._decay) // len(rows)
        self._variance = [own.norm(dim=0).square() / len(own) for own in rows]

    def __call__(self, points: Tensor, problems: Tensor) -> Evaluation:
        C, K = self._classes, self._share.shape[1]
        decay = self._decay[problems]
        pull = decay * points[:, :-C]
        losses = (pull * points[:, :-C]).sum(dim=1).double() / 2
        gradients, inverse = torch.empty_like(points), torch.empty_like(points)
        owners = torch.bincount(problems // self._heads, minlength=len(self._rows)).tolist()
        first = 0
        for owner, count in enumerate(owners):
            own = slice(first, first + count)
            first += count
            if not count:
                continue
            rows = self._rows[owner]
            weight, bias = points[own, :-C].reshape(count * C, -1), points[own, -C:].reshape(-1, 1)
            scores = torch.addmm(bias, weight, rows.T).view(count, C, -1)
            row_losses, slopes, second = self._loss(scores, self._labels[owner])
            share = self._share[owner, problems[own] % K]
            losses[own] += (row_losses * share).sum(dim=1, dtype=torch.float64)
            slopes *= share[:, None]
            by_weight = slopes.view(count * C, -1) @ rows
            gradients[own, :-C] = by_weight.view(count, -1) + pull[own]
            gradients[own, -C:] = slopes.sum(dim=2)
            curvature = torch.bmm(second, share[:, :, None]).clamp_min_(_SMALLEST_CURVATURE)
            along_axes = curvature * self._variance[owner] + decay[own, None]
            inverse[own, :-C] = along_axes.reciprocal_().flatten(1)
            inverse[own, -C:] = curvature[..., 0].reciprocal()
        return Evaluation(losses, gradients, inverse)


def _held_out(
    tried: Solved, problem: int, rows: Tensor, labels: Tensor, folds: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Score each fold of rows [N, P] by the heads that have not seen it.

    Returns:
        Scores [S, M, C], labels [M], and what each row counts, [M].
    """
    weight, bias = tried.heads(problem)
    scores, truths, counted = [], [], []
    for fold in range(weight.shape[1]):
        outside = folds == fold
        scores.append(rows[outside] @ weight[:, fold] + bias[:, fold, None])
        truths.append(labels[outside])
        counted.append(weights[outside])
    return torch.cat(scores, dim=1), torch.cat(truths), torch.cat(counted)
