"""Poisson learning on a neighbour graph (Calder et al. 2020, "Poisson learning: graph based
semi-supervised learning at very low label rates").

Shapes: M images of the graph, C classes.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from downstream.heads.diffusion import (
    GraphLogits,
    diffuse,
    label_sources,
    with_class_shares,
)
from downstream.heads.neighbour_graph import OnGraph
from downstream.heads.problems import Inference, Problems

# Keeps the equation solvable on a graph in several pieces: of what flows this share is lost.
_LOSS = 1e-4
_TYPICAL_STEPS = 150


class PoissonConfig(OnGraph):
    """Labels as point sources and sinks on the graph of all images, those to score included."""

    kind: Literal["poisson"] = "poisson"
    inference: ClassVar[Inference] = "transductive"


@torch.no_grad()
def fit_poisson(problems: Problems, config: PoissonConfig) -> list[GraphLogits]:
    """Solve L u = sum of (y - mean y) at the labels for each problem; nothing is left to choose.

    u has no scale of its own: it is divided by its deviation among images and classes, and then
    classes are made as frequent as among the labels.
    """
    graph, classes = problems.graph, problems.classes
    root: NDArray[np.float32] = np.sqrt(graph.degrees)[:, None]
    heads = []
    for rows, labels in problems.labelled():
        sources = label_sources(len(graph.points), [(rows, labels)], classes)
        sources[rows.numpy()] -= sources[rows.numpy()].mean(axis=0)
        # With u = D^-1/2 z the equation is (I - S) z = D^-1/2 sources.
        potential = torch.from_numpy(diffuse(graph, sources / root, 1 - _LOSS) / root)
        scores = with_class_shares(potential / potential.std().clamp_min(1e-12), labels)
        heads.append(GraphLogits(scores[graph.training :], {}))
    return heads


def poisson_flops(images: int, neighbours: int, classes: int) -> int:
    """Return about how many floating-point operations one head takes."""
    return _TYPICAL_STEPS * images * classes * (4 * neighbours + 12)
