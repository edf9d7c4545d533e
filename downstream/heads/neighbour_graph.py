"""The nearest neighbours of unlabelled images by their frozen features.

Shapes: R training images, T test images that a graph may hold after them, M = R + T, F features,
P principal directions, K neighbours, Q images to look up.

Nothing here sees a label. What is found is kept on disk beside the features.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from data.spread import evenly_spread
from downstream.projection import standardized_axes
from downstream.write_once import write_once
from training.errors import InputError

_FITTED_IMAGES = 5000
_ROWS_AT_ONCE = 2000
_FLOATS_AT_ONCE = 2**25
# Of so many columns only the largest is looked at first.
_GROUP = 64
_NEVER = -2.0  # below any cosine
# Deviations below this share of the largest are rounding errors of float32 features.
_NULL_SPACE = 1e-3


class GraphConfig(BaseModel):
    """Which images are neighbours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    neighbours: PositiveInt = Field(10, description="nearest images that an image is tied to")
    directions: PositiveInt = Field(
        128, description="principal directions of the features in which images are compared, most"
    )


class OnGraph(BaseModel):
    """A head that learns from the features of all training images, with few of their labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: GraphConfig = GraphConfig()


@dataclass(frozen=True)
class NeighbourGraph:
    """Images as points, each tied to those nearest by cosine.

    Fields:
        mean: float64 [F]; directions: float64 [F, P]; points are (features - mean) @ directions.
        points: float32 [M, P], training images first.
        neighbours: int64 [M, K], nearest first, never the image itself.
        training: R.
    """

    mean: Tensor
    directions: Tensor
    points: Tensor
    neighbours: Tensor
    training: int

    @cached_property
    def weights(self) -> Any:
        """Symmetric weights, a sparse float32 matrix [M, M] of scipy.

        1 between images that are each other's neighbours, 1/2 where one is the other's: on held-out
        labels weights by distance were no better.
        """
        M, K = self.neighbours.shape
        starts = np.arange(0, M * K + 1, K)
        halves = np.full(M * K, 0.5, dtype=np.float32)
        tied = sparse.csr_matrix((halves, self.neighbours.flatten().numpy(), starts), shape=(M, M))
        return (tied + tied.T).tocsr()

    @cached_property
    def degrees(self) -> NDArray[np.float32]:
        """Sums of the weights of each image, [M]."""
        return np.asarray(self.weights.sum(axis=1), dtype=np.float32).ravel()

    @cached_property
    def adjacency(self) -> Any:
        """D^-1/2 W D^-1/2 with the degrees D, like the weights W."""
        root = sparse.diags(1 / np.sqrt(self.degrees))
        return (root @ self.weights @ root).tocsr()

    def points_of(self, features: Tensor) -> Tensor:
        """Return the points [Q, P] of features [Q, F]."""
        return _points((features,), self.mean, self.directions)


class NearestTraining:
    """Looks up training images; it keeps the last answer, for all heads that score one set."""

    def __init__(self, graph: NeighbourGraph) -> None:
        self._graph = graph
        self._asked: Tensor | None = None
        self._found = torch.empty(0)

    def __call__(self, features: Tensor) -> Tensor:
        """Return of features [Q, F] the K nearest training images, int64 [Q, K], nearest first."""
        if self._asked is not features:
            graph = self._graph
            known = F.normalize(graph.points[: graph.training], dim=1)
            asked = F.normalize(graph.points_of(features.cpu()), dim=1)
            self._found = nearest(asked, known, graph.neighbours.shape[1])
            self._asked = features
        return self._found


def open_graph(
    folder: Path,
    identity: Any,
    train: NDArray[np.float32],
    test: NDArray[np.float32] | None,
    config: GraphConfig,
    *,
    std_floor: float,
) -> NeighbourGraph:
    """Return a graph from the file that keeps it in a folder, built now if there is none.

    Args:
        identity: what tells these features of these images from any others, fit for JSON.
        train: [R, F], of all training images; test: [T, F]; None: the graph holds none.
        std_floor: smallest divisor of a feature, as in `standardize`.
    Raises:
        InputError: all training images have the same features.
    """
    settings = [identity, len(train), config.model_dump(mode="json"), std_floor]
    key = json.dumps(settings, sort_keys=True)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    if not path.exists():
        built = build_graph(train, test, config, std_floor=std_floor)

        def write(file: BinaryIO) -> None:
            np.savez(
                file,
                mean=built.mean.numpy(),
                directions=built.directions.numpy(),
                points=built.points.numpy(),
                neighbours=built.neighbours.numpy().astype(np.int32),
            )

        write_once(path, write)
    with np.load(path, allow_pickle=False) as kept:
        found = {name: torch.from_numpy(kept[name]) for name in kept.files}
    found["neighbours"] = found["neighbours"].long()
    return NeighbourGraph(**found, training=len(train))


def build_graph(
    train: NDArray[np.float32],
    test: NDArray[np.float32] | None,
    config: GraphConfig,
    *,
    std_floor: float,
) -> NeighbourGraph:
    """Return the graph of training images, and of test images where they are given.

    Raises:
        InputError: all training images have the same features.
    """
    sample = torch.from_numpy(train[evenly_spread(len(train), _FITTED_IMAGES)])
    found = standardized_axes(sample, config.directions, std_floor=std_floor)
    kept = found.deviations > _NULL_SPACE * found.deviations[0]
    if not kept.any():
        raise InputError(
            "head.graph: the features of all training images are the same; take other stages"
        )
    # Variance along a direction then grows with its root alone: on held-out labels more neighbours
    # were of one class so than with the variances as they are, or all equal.
    directions = found.axes[:, kept] / found.deviations[kept].sqrt() / found.scale[:, None]
    mean, directions = found.mean.double(), directions.double()
    parts = [torch.from_numpy(part) for part in (train, test) if part is not None]
    points = _points(parts, mean, directions)
    rows = F.normalize(points, dim=1)
    neighbours = nearest(rows, rows, min(config.neighbours, len(rows) - 1), itself=False)
    return NeighbourGraph(mean, directions, points, neighbours, len(train))


def nearest(asked: Tensor, known: Tensor, count: int, *, itself: bool = True) -> Tensor:
    """Return for each row [Q, P] the `count` rows of known [M, P] of largest product, [Q, count].

    Exact: the largest entries lie in the groups of columns with the largest maxima.

    Args:
        itself: False: the i-th row of both is the same image, which is left out.
    """
    padding = -len(known) % _GROUP
    columns = F.pad(known, (0, 0, 0, padding)).T.contiguous()
    count = min(count, len(known))
    found, first = [], 0
    for block in asked.split(max(1, _FLOATS_AT_ONCE // columns.shape[1])):
        products = block @ columns
        products[:, len(known) :] = _NEVER
        rows = torch.arange(len(block))
        if not itself:
            products[rows, first + rows] = _NEVER
        groups = products.unflatten(1, (-1, _GROUP))
        best = groups.amax(dim=2).topk(min(count, groups.shape[1]), dim=1).indices
        places = groups[rows[:, None], best].flatten(1).topk(count, dim=1).indices
        found.append(best.gather(1, places // _GROUP) * _GROUP + places % _GROUP)
        first += len(block)
    return torch.cat(found)


def _points(parts: Sequence[Tensor], mean: Tensor, directions: Tensor) -> Tensor:
    blocks = (block for part in parts for block in part.split(_ROWS_AT_ONCE))
    # Centred before the product, so that single precision is enough.
    return torch.cat([(block - mean.float()) @ directions.float() for block in blocks])
