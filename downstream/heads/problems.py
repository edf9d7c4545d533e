"""What heads are fitted on and what comes of it, whatever kind of head it is.

Shapes: D problems (draws) of equal size, N labelled rows, F features, M rows to score, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from data.labels import stratified_folds
from downstream.heads.diffusion import LabelSet, Pool
from downstream.heads.neighbour_graph import NeighbourGraph
from models.outputs import Classes, Output

Inference = Literal["inductive", "transductive"]
"""Whether a head scores any image, or only those that it had, unlabelled, when it was fitted."""


class ChosenInside(BaseModel):
    """How many of the N labels are held out, and how often, to choose what a head leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int = Field(5, ge=2, description="parts of the N labels, each held out in turn")
    validation_labels: PositiveInt = Field(
        500, description="folds are held out until so many labels have been, or all N"
    )

    def held_out_folds(self, labels: int) -> int:
        """Return how many folds of N labels are held out."""
        return min(self.folds, math.ceil(self.validation_labels * self.folds / labels))


@dataclass(frozen=True)
class Problems:
    """Labelled features of D draws, on one device.

    Fields:
        features: float32 [D, N, F], as they come from the encoder.
        labels: int64 [D, N], in [0, classes); of another output than classes float32 [D, N, C].
        folds: int64 [D, N]; the fold in which a row is held out, negative: never; None where there
            are too few labels to hold any out. Each problem has the same number of folds.
        classes: C.
        std_floor: smallest divisor of a feature, as in `standardize`.
        output: what the scores of heads mean.
        copies: changed copies of each labelled image among the rows: the rows of all images, those
            of the first copy of each, and so on. Copies share their image's fold.
        weights: float32 [D, N], what each row counts; None: all the same. Their sum is the number
            of labelled images.
        pool: the unlabelled images beside them, for heads on a graph of these.
    """

    features: Tensor
    labels: Tensor
    folds: Tensor | None
    classes: int
    std_floor: float
    output: Output = field(default_factory=Classes)
    copies: int = 0
    weights: Tensor | None = None
    pool: Pool | None = None

    @property
    def graph(self) -> NeighbourGraph:
        """The graph of the pool."""
        assert self.pool is not None, "heads on a graph are given a pool"
        return self.pool.graph

    def labelled(self) -> Iterator[LabelSet]:
        """Yield of each problem which images of the pool are labelled, and how."""
        assert self.pool is not None, "heads on a graph are given a pool"
        for rows, labels in zip(self.pool.rows, self.labels.cpu(), strict=True):
            yield rows, labels[: len(rows)]


class FittedHead(Protocol):
    """A head that has learnt from one problem.

    Attributes:
        choices: what was chosen inside the labels, and by which scores; fit for JSON.
    """

    @property
    def choices(self) -> dict[str, Any]: ...

    def logits(self, features: Tensor) -> Tensor:
        """Return unnormalized log-probabilities [M, C] of features [M, F] from the encoder."""
        ...


@dataclass(frozen=True)
class LinearScores:
    """A head that is linear in the encoder's features: weight [F, C] and bias [C]."""

    weight: Tensor
    bias: Tensor
    choices: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.bias


def all_logits(heads: Sequence[FittedHead], features: Tensor) -> Tensor:
    """Return what every head makes of features [M, F], [D, M, C], on their device.

    Linear heads share one matrix product, which reads the features once.
    """
    linear = [head for head in heads if isinstance(head, LinearScores)]
    if len(linear) < len(heads):
        return torch.stack([head.logits(features) for head in heads])
    weight = torch.cat([head.weight for head in linear], dim=1).to(features.device)
    bias = torch.cat([head.bias for head in linear]).to(features.device)
    return (features @ weight + bias).unflatten(1, (len(heads), -1)).transpose(0, 1)


def held_out_folds(labels: Tensor, config: ChosenInside, seeds: Sequence[int]) -> Tensor | None:
    """Return the fold [D, N] in which each row of labels [D, N] is held out, -1 for never.

    Args:
        seeds: one for each problem.
    Returns:
        None where hardly any class has a second label to hold out.
    """
    counts = [torch.unique(own, return_counts=True)[1] for own in labels]
    fewest = min(int(count.min()) for count in counts)
    num_labels = labels.shape[1]
    if fewest < 2 and num_labels < 2 * max(len(count) for count in counts):
        return None
    folds = min(config.folds, max(2, fewest))
    held_out = config.model_copy(update={"folds": folds}).held_out_folds(num_labels)
    by_problem = [
        stratified_folds(own.cpu().numpy(), folds, seed=seed)
        for own, seed in zip(labels, seeds, strict=True)
    ]
    fold = torch.from_numpy(np.stack(by_problem)).to(labels.device)
    return torch.where(fold < held_out, fold, -1)
