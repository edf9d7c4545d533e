"""A linear head taught by labels that were spread over the training images (Iscen et al. 2019,
"Label propagation for deep semi-supervised learning").

Shapes: N labelled images, R training images, F features, P principal directions, C classes, S
weights to choose from, H held-out images.

The teacher sees training images alone, and the head scores any image: inductive. The head is ridge
regression in the graph's directions on hard pseudo-labels of all images. On held-out labels their
soft probabilities, the surest share alone, and further rounds were each worse.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.choosing import ascending, choose, unchosen
from downstream.heads.diffusion import LabelSet
from downstream.heads.label_propagation import propagated, propagation_flops
from downstream.heads.neighbour_graph import NeighbourGraph, OnGraph
from downstream.heads.problems import ChosenInside, Inference, LinearScores, Problems

# What is added to the mean square of every direction, as a share of their mean.
_STRENGTH = 0.01


class PseudoLabelsConfig(OnGraph, ChosenInside):
    """A linear head on the labels and on what label propagation makes of all other images."""

    kind: Literal["pseudo_labels"] = "pseudo_labels"
    inference: ClassVar[Inference] = "inductive"
    alpha: float = Field(0.95, gt=0, lt=1, description="as of label_propagation, the teacher")
    label_weights: Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)] = Field(
        (30.0, 100.0, 300.0, 1000.0),
        min_length=1,
        description="how many pseudo-labels a label counts for, to choose from, fewest first",
    )


@torch.no_grad()
def fit_pseudo_labels(problems: Problems, config: PseudoLabelsConfig) -> list[LinearScores]:
    """Choose inside the labels of each problem what one of them counts, then learn from all."""
    graph, classes = problems.graph, problems.classes
    student = _Student.on(graph)
    heads = []
    for number, (rows, labels) in enumerate(problems.labelled()):
        folds = None if problems.folds is None else problems.folds[number].cpu()[: len(rows)]
        sets = [(rows, labels)]
        if folds is not None:
            kept = [folds != fold for fold in range(int(folds.max()) + 1)]
            sets += [(rows[part], labels[part]) for part in kept]
        taught = [own.argmax(dim=1) for own in propagated(graph, sets, classes, config.alpha)]
        solutions = student.solutions(taught[0], sets[0], classes, config.label_weights)
        if folds is None:
            setting = len(solutions) - 1
            choice = unchosen(student.scores(solutions, rows)[setting], setting=setting)
        else:
            scores, truth = [], []
            for part, pseudo, own in zip(kept, taught[1:], sets[1:], strict=True):
                fitted = student.solutions(pseudo, own, classes, config.label_weights)
                scores.append(student.scores(fitted, rows[~part]))
                truth.append(labels[~part])
            choice = choose(torch.cat(scores, dim=1), torch.cat(truth), folds=len(kept))
        weight, bias = on_features(graph, solutions[choice.setting] / choice.temperature)
        device = problems.features.device
        noted = choice.noted(label_weight=config.label_weights[choice.setting])
        heads.append(LinearScores(weight.to(device), bias.to(device), noted))
    return heads


def pseudo_labels_flops(config: PseudoLabelsConfig, labels: int, images: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    sets, directions = config.held_out_folds(labels) + 1, config.graph.directions
    spreading = propagation_flops(images, config.graph.neighbours, sets * classes)
    solving = len(config.label_weights) * directions**3
    return spreading + sets * (solving + 2 * images * directions * classes)


def on_features(graph: NeighbourGraph, solution: Tensor) -> tuple[Tensor, Tensor]:
    """Express weights float64 [P + 1, C] on points and a 1 as weight [F, C] and bias [C]."""
    weight = graph.directions @ solution[:-1]
    return weight.float(), (solution[-1] - graph.mean @ weight).float()


@dataclass(frozen=True)
class _Student:
    """Ridge regression on pseudo-labels of all training images.

    Fields:
        rows: float32 [R, P + 1], points and a 1.
        gram: float64 [P + 1, P + 1], of all rows, with the penalty.
    """

    rows: Tensor
    gram: Tensor

    @classmethod
    def on(cls, graph: NeighbourGraph) -> "_Student":
        rows = F.pad(graph.points[: graph.training], (0, 1), value=1.0)
        gram = (rows.T @ rows).double()
        return cls(rows, gram + _STRENGTH * gram.diagonal().mean() * torch.eye(len(gram)).double())

    def solutions(
        self, pseudo: Tensor, labelled: LabelSet, classes: int, weights: tuple[float, ...]
    ) -> Tensor:
        """Return float64 [S, P + 1, C], learnt from pseudo-labels [R, ...] and weighted labels."""
        rows, labels = labelled
        targets = F.one_hot(pseudo[: len(self.rows)], classes).float()
        targets[rows] = F.one_hot(labels, classes).float()
        learnt = (self.rows.T @ targets).double()
        own = self.rows[rows].double()
        own_gram, own_learnt = own.T @ own, own.T @ targets[rows].double()
        return torch.stack(
            [
                torch.linalg.solve(
                    self.gram + (weight - 1) * own_gram, learnt + (weight - 1) * own_learnt
                )
                for weight in weights
            ]
        )

    def scores(self, solutions: Tensor, rows: Tensor) -> Tensor:
        """Return scores float64 [S, H, C] of some training images."""
        return self.rows[rows].double() @ solutions
