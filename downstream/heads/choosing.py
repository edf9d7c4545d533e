"""Choosing a head's setting by held-out labels, and making probabilities of its scores.

Shapes: D problems, N labelled rows, F features, P features after rotation, M held-out rows,
S settings, C classes.

Heads in closed form give scores that rank the classes but whose scale means little. A head's
logits are its scores divided by a temperature (Guo et al., 2017), fitted to the held-out rows for
each setting, so that settings are compared by what they know, not by how sure they are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.problems import LinearScores, Problems
from downstream.heads.standardize import Standardizer

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From rows [N, P] with labels [N], and other rows [M, P], to scores [S, M, C] of the others."""

Number = TypeVar("Number", int, float)

# Bounds of the scores' root mean square deviation among classes, once divided by the temperature.
_FLATTEST, _SHARPEST = 0.01, 100.0
_HALVINGS = 24


@dataclass(frozen=True)
class Choice:
    """Which setting was chosen, the temperature of its scores, and what they were worth held out.

    The accuracy and mean negative log-likelihood are None, and `folds` is 0, where there were too
    few labels to hold any out.
    """

    setting: int
    temperature: float
    folds: int
    cv_accuracy: float | None
    cv_nll: float | None

    def noted(self, **setting: float) -> dict[str, Any]:
        """Return the choice with the setting's own values in its number's place, fit for JSON."""
        rest = asdict(self)
        del rest["setting"]
        return {**setting, **rest}


def ascending(values: tuple[Number, ...]) -> tuple[Number, ...]:
    """Check that a config lists settings in order, so that the last is the most cautious."""
    if any(first >= second for first, second in pairwise(values)):
        raise ValueError(f"must ascend, got {list(values)}: sort them, each once")
    return values


def one_by_one(problems: Problems) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield of each problem the features [N, F], the labels [N] and the folds [N] or None."""
    folds = [None] * len(problems.labels) if problems.folds is None else problems.folds
    yield from zip(problems.features, problems.labels, folds, strict=True)


def choose_inside(rows: Tensor, labels: Tensor, folds: Tensor | None, score: Score) -> Choice:
    """Choose a setting inside the labels: each fold is scored by what the other rows teach.

    Args:
        rows: [N, P].
        labels: [N].
        folds: [N]; the fold in which a row is held out, negative: never. Where None, the last
            setting is taken.
    """
    if folds is None:
        scores = score(rows, labels, rows)
        return unchosen(scores[-1], setting=len(scores) - 1)
    parts, truth = [], []
    count = int(folds.max()) + 1
    for fold in range(count):
        outside = folds == fold
        parts.append(score(rows[~outside], labels[~outside], rows[outside]))
        truth.append(labels[outside])
    return choose(torch.cat(parts, dim=1), torch.cat(truth), folds=count)


def choose(scores: Tensor, labels: Tensor, *, folds: int) -> Choice:
    """Choose the setting of least mean held-out negative log-likelihood, each at its temperature.

    Of equals the last is chosen.

    Args:
        scores: [S, M, C], of held-out rows.
        labels: [M].
        folds: how many parts were held out in turn.
    """
    temperatures = fit_temperatures(scores, labels)
    losses = [
        F.cross_entropy(own / temperature, labels).item()
        for own, temperature in zip(scores, temperatures, strict=True)
    ]
    best = max(range(len(losses)), key=lambda setting: (-losses[setting], setting))
    hits = scores[best].argmax(dim=1) == labels
    return Choice(
        setting=best,
        temperature=temperatures[best].item(),
        folds=folds,
        cv_accuracy=hits.double().mean().item(),
        cv_nll=losses[best],
    )


def unchosen(scores: Tensor, *, setting: int) -> Choice:
    """Take a setting where no label can be held out, at a temperature that trusts it little.

    It makes the deviation of logits among classes 1 on the rows that the head knows. With a label
    per class of scikit-learn's digits or of Fashion-MNIST that is not far from the best.

    Args:
        scores: [N, C], of the rows that the head was fitted on.
    """
    return Choice(setting, _spread(scores[None]).item(), 0, None, None)


def fit_temperatures(scores: Tensor, labels: Tensor) -> Tensor:
    """Return for each of S settings the temperature of least mean negative log-likelihood, [S].

    A label counts as any class with probability 1 / (M + 1): otherwise scores that rank all of a
    few rows right would be made as sure as the bounds allow (Platt, 1999, smooths targets for the
    same reason). The likelihood is convex in 1 / temperature, whose logarithm is found by halving
    between bounds that are relative to the scores' deviation.

    Args:
        scores: [S, M, C].
        labels: [M].
    """
    spread = _spread(scores)
    # Where a row's scores sum to 0, the part of its label that is any class has no slope.
    scaled = (scores - scores.mean(dim=2, keepdim=True)) / spread[:, None, None]
    M = len(labels)
    truth = scaled[:, torch.arange(M, device=labels.device), labels].sum(dim=1) / (M + 1)
    low = torch.full_like(spread, math.log(_FLATTEST))
    high = torch.full_like(spread, math.log(_SHARPEST))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        shares = (scaled * middle.exp()[:, None, None]).softmax(dim=2)
        too_flat = (shares * scaled).sum(dim=2).mean(dim=1) < truth
        low, high = torch.where(too_flat, middle, low), torch.where(too_flat, high, middle)
    return spread / ((low + high) / 2).exp()


def linear_head(
    solution: tuple[Tensor, Tensor],
    standardizer: Standardizer,
    choice: Choice,
    **setting: float,
) -> LinearScores:
    """Make a head for raw features of weight [P, C] and bias [C] on standardized rows."""
    weight, bias = ((part / choice.temperature).to(standardizer.mean.dtype) for part in solution)
    raw_weight, raw_bias = standardizer.on_raw_features(weight, bias)
    return LinearScores(raw_weight, raw_bias, choice.noted(**setting))


def _spread(scores: Tensor) -> Tensor:
    """Root mean square deviation among the classes, [S]; never 0."""
    centred = scores - scores.mean(dim=2, keepdim=True)
    return centred.square().mean(dim=(1, 2)).sqrt().clamp_min(1e-12)
