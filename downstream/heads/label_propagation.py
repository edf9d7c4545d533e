"""Label propagation on a neighbour graph (Zhou et al. 2004, "Learning with local and global
consistency").

Shapes: L sets of N labelled images, M images of the graph, C classes.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from downstream.heads.diffusion import (
    GraphLogits,
    LabelSet,
    diffuse,
    label_sources,
    with_class_shares,
)
from downstream.heads.neighbour_graph import NeighbourGraph, OnGraph
from downstream.heads.problems import Inference, Problems

# Of images that no label reaches, all classes have this score.
_LEAST_SCORE = 1e-9
_TYPICAL_STEPS = 40


class LabelPropagationConfig(OnGraph):
    """Labels spread over the graph of all images, those to score included."""

    kind: Literal["label_propagation"] = "label_propagation"
    inference: ClassVar[Inference] = "transductive"
    alpha: float = Field(
        0.95, gt=0, lt=1, description="share of its score that an image takes from its neighbours"
    )


@torch.no_grad()
def fit_label_propagation(problems: Problems, config: LabelPropagationConfig) -> list[GraphLogits]:
    """Spread the labels of each problem; nothing is left to choose."""
    graph, heads = problems.graph, []
    for own in problems.labelled():
        (spread,) = propagated(graph, [own], problems.classes, config.alpha)
        heads.append(GraphLogits(spread[graph.training :], {}))
    return heads


def propagated(
    graph: NeighbourGraph, sets: Sequence[LabelSet], classes: int, alpha: float
) -> list[Tensor]:
    """Return log-probabilities [M, C] of all images by each of L sets of labels.

    F = (I - alpha S)^-1 Y; then classes are made as frequent as among the labels.
    """
    sources = label_sources(len(graph.points), sets, classes)
    columns = torch.from_numpy(diffuse(graph, sources, alpha))
    scores = columns.unflatten(1, (len(sets), classes)).clamp_min(_LEAST_SCORE).log()
    return [with_class_shares(scores[:, n], labels) for n, (_, labels) in enumerate(sets)]


def propagation_flops(images: int, neighbours: int, columns: int) -> int:
    """Return about how many floating-point operations spreading so many columns takes."""
    return _TYPICAL_STEPS * images * columns * (4 * neighbours + 12)
