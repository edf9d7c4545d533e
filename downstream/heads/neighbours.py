"""Weighted k nearest neighbours by cosine (Wu et al., 2018).

Shapes: D problems (draws), N labelled rows, F features, P features after rotation, M other rows,
C classes, S settings.

A neighbour votes for its class with weight exp(cosine / vote temperature). How many vote, and at
which temperature, is chosen inside the labels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.choosing import ascending, choose_inside, one_by_one
from downstream.heads.directions import ROWS_AT_ONCE, Directions
from downstream.heads.problems import ChosenInside, Inference, Problems
from downstream.heads.standardize import standardize

SMOOTHING = 0.03
"""What every class gets beside its neighbours' votes, of which the nearest has 1."""

# Of a head on the fewest labels, with what it takes to score thousands of images.
_FEWEST_FLOPS = 2 * 10**9


class NeighboursConfig(ChosenInside):
    """A head that lets the nearest labelled rows vote."""

    kind: Literal["neighbours"] = "neighbours"
    inference: ClassVar[Inference] = "inductive"
    neighbours: Annotated[tuple[PositiveInt, ...], AfterValidator(ascending)] = Field(
        (1, 3, 5, 10, 20, 50, 100),
        min_length=1,
        description="how many rows vote, to choose from, fewest first; all where there are fewer",
    )
    vote_temperatures: Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)] = Field(
        (0.05, 0.1, 0.2, 0.4),
        min_length=1,
        description="what cosines are divided by to weigh votes, to choose from; the larger, the "
        "more alike all votes are",
    )


@dataclass(frozen=True)
class Voting:
    """How many neighbours vote, and at which temperature."""

    neighbours: int
    vote_temperature: float


@dataclass(frozen=True)
class Neighbours:
    """A head that keeps its labelled rows; logits are logarithms of votes, by a temperature.

    Fields:
        known: [N, F], directions of the labelled rows; labels: [N].
    """

    directions: Directions
    known: Tensor
    labels: Tensor
    classes: int
    voting: Voting
    temperature: float
    choices: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        def score(rows: Tensor) -> Tensor:
            votes = log_votes(self.known, self.labels, rows, [self.voting], self.classes)
            return votes[0] / self.temperature

        return self.directions.scored(features, score)


@torch.no_grad()
def fit_neighbours(problems: Problems, config: NeighboursConfig) -> list[Neighbours]:
    """Choose of each problem how its neighbours vote, inside its labels, then keep all its rows."""
    votings = [
        Voting(neighbours, vote_temperature)
        for vote_temperature, neighbours in product(config.vote_temperatures, config.neighbours)
    ]

    def score(rows: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        blocks = others.split(ROWS_AT_ONCE)
        votes = [log_votes(rows, labels, part, votings, problems.classes) for part in blocks]
        return torch.cat(votes, dim=1)

    heads = []
    for raw, labels, folds in one_by_one(problems):
        rows, standardizer = standardize(raw, floor=problems.std_floor)
        choice = choose_inside(F.normalize(rows, dim=1), labels, folds, score)
        voting = votings[choice.setting]
        directions = Directions(standardizer.mean, standardizer.scale)
        heads.append(
            Neighbours(
                directions,
                directions.of(raw),
                labels,
                problems.classes,
                voting,
                choice.temperature,
                choice.noted(**asdict(voting)),
            )
        )
    return heads


def neighbours_flops(config: NeighboursConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing for one head takes.

    Those of the cosines between rows held out and all others, and what any number of labels takes.
    """
    rotated = labels if 2 * labels <= features else features
    held_out = config.held_out_folds(labels) * labels // config.folds
    return _FEWEST_FLOPS + 2 * held_out * labels * rotated


def log_votes(
    known: Tensor, labels: Tensor, others: Tensor, votings: Sequence[Voting], classes: int
) -> Tensor:
    """Return the logarithm of each class's smoothed votes, [S, M, C].

    Args:
        known, others: directions [N, P] and [M, P].
        labels: [N], of the known rows.
    """
    most = min(len(known), max(voting.neighbours for voting in votings))
    cosines, places = (others @ known.T).topk(most, dim=1)
    # Shares stay as they are, and no exponential overflows.
    behind = cosines - cosines[:, :1]
    members = F.one_hot(labels[places], classes).to(known.dtype)
    scores = []
    for voting in votings:
        weights = (behind[:, : voting.neighbours] / voting.vote_temperature).exp()
        votes = (weights[:, None] @ members[:, : voting.neighbours]).squeeze(1)
        scores.append((votes + SMOOTHING).log())
    return torch.stack(scores)
