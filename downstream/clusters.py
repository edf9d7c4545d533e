"""k-means clusters of rows, of any number of them.

Shapes: N rows, K columns, G clusters.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.float32]
Integers = NDArray[np.int64]

_FITTED_ROWS = 50_000
_ITERATIONS = 30
_AT_ONCE = 10_000


def cluster(rows: Rows, clusters: int, generator: np.random.Generator) -> tuple[Integers, Rows]:
    """Divide rows by k-means from k-means++ (Arthur & Vassilvitskii 2007).

    Centres are those of 50,000 rows at most, drawn from the generator.

    Args:
        rows: [N, K]; clusters: G, at most N.
    Returns:
        The cluster of each row [N], some of which may be empty, and the squared distance of each
        row to its cluster's centre [N].
    """
    fitted = rows
    if len(rows) > _FITTED_ROWS:
        fitted = rows[np.sort(generator.choice(len(rows), _FITTED_ROWS, replace=False))]
    known = torch.from_numpy(fitted)
    centres = _spread(known, clusters, generator)
    places = torch.full((len(known),), -1)
    for _ in range(_ITERATIONS):
        moved, _ = _nearest(known, centres)
        if torch.equal(moved, places):
            break
        places = moved
        sums = torch.zeros_like(centres).index_add_(0, places, known)
        counts = places.bincount(minlength=clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    places, distances = _nearest(torch.from_numpy(rows), centres)
    return places.numpy(), distances.numpy()


def _spread(rows: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """Rows far apart: each is drawn by its squared distance to those before it."""
    chosen = [int(generator.integers(len(rows)))]
    distances = torch.full((len(rows),), torch.inf)
    while len(chosen) < count:
        new = (rows - rows[chosen[-1]]).square().sum(dim=1)
        distances = torch.minimum(distances, new)
        distances[chosen[-1]] = 0
        cumulative = distances.double().cumsum(0)
        # Where all rows that are left repeat others, any will do.
        drawn = generator.random() * float(cumulative[-1])
        chosen.append(min(int(torch.searchsorted(cumulative, drawn, right=True)), len(rows) - 1))
    return rows[chosen]


def _nearest(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row, and its squared distance."""
    lengths = centres.square().sum(dim=1)
    places, distances = [], []
    for part in rows.split(_AT_ONCE):
        least, place = torch.addmm(lengths, part, centres.T, alpha=-2).min(dim=1)
        places.append(place)
        distances.append((least + part.square().sum(dim=1)).clamp_min(0))
    return torch.cat(places), torch.cat(distances)
