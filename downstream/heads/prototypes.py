"""Nearest class mean: a class is where the mean of its rows lies (Snell et al., 2017).

Shapes: D problems (draws), N labelled rows, F features, P features after rotation, M other rows,
C classes.

Nothing is fitted but the means and one temperature.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.choosing import choose_inside, linear_head, one_by_one
from downstream.heads.directions import Directions
from downstream.heads.problems import ChosenInside, FittedHead, Inference, LinearScores, Problems
from downstream.heads.standardize import standardize


class PrototypesConfig(ChosenInside):
    """A head that scores a row by how near it lies to the mean of each class."""

    kind: Literal["prototypes"] = "prototypes"
    inference: ClassVar[Inference] = "inductive"
    distance: Literal["euclidean", "cosine"] = Field(
        "cosine", description="of standardized rows; cosine: of rows scaled to equal length"
    )


class EuclideanPrototypesConfig(PrototypesConfig):
    """A head that scores a row by how near it lies to the mean of each class: a linear one."""

    distance: Literal["euclidean"] = "euclidean"


@dataclass(frozen=True)
class CosinePrototypes:
    """A head whose logits are cosines to one direction per class, divided by a temperature.

    Fields:
        prototypes: [C, F], of length 1, or 0 for a class without a label.
    """

    directions: Directions
    prototypes: Tensor
    temperature: float
    choices: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        scaled = self.prototypes.T / self.temperature
        return self.directions.scored(features, lambda rows: rows @ scaled)


@torch.no_grad()
def fit_prototypes(problems: Problems, config: PrototypesConfig) -> list[FittedHead]:
    """Choose the temperature of each problem inside its labels, then take the means of all."""
    fit = _by_cosine if config.distance == "cosine" else _by_distance
    return [fit(*parts, problems) for parts in one_by_one(problems)]


def prototypes_flops(config: PrototypesConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    return 4 * (config.held_out_folds(labels) + 1) * classes * labels * features


def class_means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean [C, P] of each class's rows [N, P], labels [N] in [0, classes).

    A class without a row gets 0, which is the mean of all standardized rows.
    """
    members = F.one_hot(labels, classes).to(rows.dtype)
    return members.T @ rows / members.sum(dim=0).clamp_min(1)[:, None]


def _by_distance(
    raw: Tensor, labels: Tensor, folds: Tensor | None, problems: Problems
) -> LinearScores:
    def solution(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # |x - mean|^2 without |x|^2, which all classes share, is linear in x.
        means = class_means(rows, labels, problems.classes)
        return 2 * means.T, -means.square().sum(dim=1)

    def score(rows: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        weight, bias = solution(rows, labels)
        return (others @ weight + bias)[None]

    rows, standardizer = standardize(raw, floor=problems.std_floor)
    choice = choose_inside(rows, labels, folds, score)
    return linear_head(solution(rows, labels), standardizer, choice)


def _by_cosine(
    raw: Tensor, labels: Tensor, folds: Tensor | None, problems: Problems
) -> CosinePrototypes:
    def prototypes(rows: Tensor, labels: Tensor) -> Tensor:
        return F.normalize(class_means(rows, labels, problems.classes), dim=1)

    def score(rows: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        return (others @ prototypes(rows, labels).T)[None]

    rows, standardizer = standardize(raw, floor=problems.std_floor)
    choice = choose_inside(F.normalize(rows, dim=1), labels, folds, score)
    directions = Directions(standardizer.mean, standardizer.scale)
    known = prototypes(directions.of(raw), labels)
    return CosinePrototypes(directions, known, choice.temperature, choice.noted())
