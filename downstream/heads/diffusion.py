"""Labels spread over a graph of images.

Shapes: D problems (draws), L sets of N labelled images, M images of the graph, T of them beside the
training images, C classes, Q columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.heads.neighbour_graph import NeighbourGraph

_TOLERANCE = 1e-4
_MOST_STEPS = 500
_LEAST_SHARE = 1e-6
_ROUNDS = 20


LabelSet = tuple[Tensor, Tensor]
"""Which training images are labelled, int64 [N], and their labels [N]."""


@dataclass(frozen=True)
class Pool:
    """The images that D problems draw their labelled ones from.

    Fields:
        graph: of all training images and, for transductive heads, the images to score.
        rows: int64 [D, N], which training images are labelled.
    """

    graph: NeighbourGraph
    rows: Tensor


@dataclass(frozen=True)
class GraphLogits:
    """A transductive head: it knows the images that its graph holds and no others.

    Fields:
        known: [T, C], logits of the graph's images beside the training images, in their order.
    """

    known: Tensor
    choices: dict[str, Any]

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits [T, C] of the graph's images, whose features [T, F] these must be."""
        if len(features) != len(self.known):
            raise ValueError(f"{len(features)} images to score, the graph has {len(self.known)}")
        return self.known.to(features.device)


def label_sources(images: int, sets: Sequence[LabelSet], classes: int) -> NDArray[np.float32]:
    """Return float32 [M, L * C]: 1 where an image has a class in a set, else 0."""
    sources = np.zeros((images, len(sets), classes), dtype=np.float32)
    for number, (rows, labels) in enumerate(sets):
        sources[rows.cpu().numpy(), number, labels.cpu().numpy()] = 1
    return sources.reshape(images, -1)


def diffuse(
    graph: NeighbourGraph, sources: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Return X [M, Q] of (I - alpha S) X = sources, by conjugate gradients for all columns at once.

    S is the graph's normalized adjacency, whose eigenvalues lie in [-1, 1]; 0 < alpha < 1.
    """
    found = np.zeros_like(sources)
    left, direction = sources.copy(), sources.copy()
    squares = np.square(left).sum(axis=0)
    aim = _TOLERANCE**2 * squares
    for _ in range(_MOST_STEPS):
        if (squares <= aim).all():
            break
        image = direction - alpha * (graph.adjacency @ direction)
        step = squares / np.maximum((direction * image).sum(axis=0), 1e-30)
        found += step * direction
        left -= step * image
        before, squares = squares, np.square(left).sum(axis=0)
        direction = left + squares / np.maximum(before, 1e-30) * direction
    return found


def with_class_shares(scores: Tensor, labels: Tensor) -> Tensor:
    """Shift log-scores [M, C] until classes are, on average, as frequent as among labels [N].

    Returns:
        Log-probabilities [M, C]. This is class mass normalization (Zhu et al. 2003), repeated
        because normalizing each image moves the classes' masses again.
    """
    counts = torch.bincount(labels.cpu(), minlength=scores.shape[1]).to(scores.dtype)
    wanted = (counts / counts.sum()).clamp_min(_LEAST_SHARE).log()
    shifted = scores.log_softmax(dim=1)
    for _ in range(_ROUNDS):
        found = shifted.logsumexp(dim=0) - np.log(len(shifted))
        shifted = (shifted + wanted - found).log_softmax(dim=1)
    return shifted
