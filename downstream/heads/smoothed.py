"""A linear head whose answer for an image is averaged with what its nearest training images were
told by labels spread over them.

Shapes: R training images, Q images to score, K neighbours, F features, C classes.

Labels are spread over training images alone, and any image is scored: inductive.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from downstream.heads.label_propagation import propagated, propagation_flops
from downstream.heads.neighbour_graph import NearestTraining, OnGraph
from downstream.heads.problems import ChosenInside, Inference, LinearScores, Problems
from downstream.heads.softmax import SoftmaxConfig, fit_softmax, softmax_flops

_LINEAR = SoftmaxConfig()


class SmoothedConfig(OnGraph, ChosenInside):
    """A linear softmax head, averaged with propagated labels of the nearest training images."""

    kind: Literal["smoothed"] = "smoothed"
    inference: ClassVar[Inference] = "inductive"
    alpha: float = Field(0.95, gt=0, lt=1, description="as of label_propagation")
    weight: float = Field(
        2.0, gt=0, description="what the neighbours' probabilities count beside the head's own"
    )


@dataclass(frozen=True)
class Smoothed:
    """Logits are logarithms of averaged probabilities.

    Fields:
        linear: the head's own scores.
        told: float32 [R, C], probabilities of training images.
    """

    linear: LinearScores
    told: Tensor
    nearest: NearestTraining
    weight: float
    choices: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        own = self.linear.logits(features).softmax(dim=1)
        told = self.told[self.nearest(features)].mean(dim=1).to(own.device)
        return ((own + self.weight * told) / (1 + self.weight)).clamp_min(1e-12).log()


@torch.no_grad()
def fit_smoothed(problems: Problems, config: SmoothedConfig) -> list[Smoothed]:
    """Fit the linear head of each problem as softmax does, and spread its labels."""
    graph, heads = problems.graph, []
    linear, nearest = fit_softmax(problems, _LINEAR), NearestTraining(graph)
    for own, head in zip(problems.labelled(), linear, strict=True):
        (spread,) = propagated(graph, [own], problems.classes, config.alpha)
        told = spread[: graph.training].exp()
        heads.append(Smoothed(head, told, nearest, config.weight, head.choices))
    return heads


def smoothed_flops(
    config: SmoothedConfig, labels: int, features: int, images: int, classes: int
) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    linear = _LINEAR.model_copy(update=config.model_dump(include={"folds", "validation_labels"}))
    spreading = propagation_flops(images, config.graph.neighbours, classes)
    return softmax_flops(linear, labels, features, classes) + spreading
