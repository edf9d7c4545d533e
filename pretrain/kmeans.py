"""Clusters of features: whitened principal directions, then k-means.

Shapes: N rows, F features, D directions, K clusters.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST_STD = 1e-6


class Clusters(NamedTuple):
    """A clustering of N rows.

    Attributes:
        labels: int64 [N], each row's nearest centre.
        centres: [K, D].
    """

    labels: Tensor
    centres: Tensor


def whitened(features: Tensor, directions: int) -> Tensor:
    """Return rows [N, F] along their first principal directions, each to variance 1, of length 1.

    As Caron et al. 2018 before k-means. Directions in which nothing varies are left out.

    Returns:
        float32 [N, D], D at most `directions`.
    """
    rows = features.double()
    rows = rows - rows.mean(0)
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    variances, axes = variances.flip(0)[:directions], axes.flip(1)[:, :directions]
    varied = variances > _LEAST_STD * variances[0].clamp_min(torch.finfo(torch.float64).tiny)
    # An eigenvector and its negative are the same direction.
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    scaled = rows @ (axes * signs)[:, varied] / variances[varied].sqrt()
    return F.normalize(scaled).float()


def kmeans(
    rows: Tensor, clusters: int, *, iterations: int, seed: int, labels: Tensor | None = None
) -> Clusters:
    """Return K clusters of rows [N, D], none of them empty where the rows allow it.

    A cluster that loses all its rows takes the row that lies farthest from its own centre.

    Args:
        clusters: K, at most N.
        iterations: of Lloyd's algorithm.
        seed: of the first centres, which are drawn by k-means++ (Arthur & Vassilvitskii 2007).
        labels: int64 [N], to begin with the means of these clusters in their place.
    """
    if labels is None:
        centres = _spread_rows(rows, clusters, seed)
    else:
        centres = torch.zeros(clusters, rows.shape[1], device=rows.device)
        labels, centres = _moved(rows, labels, centres, torch.zeros(len(rows), device=rows.device))
    for _ in range(iterations):
        nearest, distances = _nearest(rows, centres)
        labels, centres = _moved(rows, nearest, centres, distances)
    assert labels is not None
    return Clusters(labels, centres)


def _nearest(rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return which centre is nearest to each row, and its squared distance."""
    # Of |row - centre|^2, |row|^2 is the same for all centres.
    partial = centres.square().sum(1) - 2 * rows @ centres.T
    least, labels = partial.min(1)
    return labels, (least + rows.square().sum(1)).clamp_min(0)


def _moved(
    rows: Tensor, labels: Tensor, centres: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """Return labels without empty clusters, and the means of each cluster's rows."""
    clusters = len(centres)
    counts = labels.bincount(minlength=clusters)
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        labels = labels.clone()
        for row in distances.argsort(descending=True, stable=True).tolist():
            if not len(empty):
                break
            if counts[labels[row]] > 1:
                counts[labels[row]] -= 1
                labels[row], empty = empty[0], empty[1:]
                counts[labels[row]] = 1
    sums = torch.zeros_like(centres).index_add_(0, labels, rows)
    return labels, sums / labels.bincount(minlength=clusters)[:, None].clamp_min(1)


def _spread_rows(rows: Tensor, clusters: int, seed: int) -> Tensor:
    """Draw rows as first centres, each with a chance that grows with its distance to the others."""
    generator = torch.Generator().manual_seed(seed)
    picked = int(torch.randint(len(rows), (), generator=generator))
    centres = [rows[picked]]
    distances = torch.full((len(rows),), torch.inf, device=rows.device)
    for draw in torch.rand(clusters - 1, generator=generator, dtype=torch.float64).tolist():
        distances = torch.minimum(distances, (rows - centres[-1]).square().sum(1))
        reached = distances.double().cumsum(0)
        picked = int(torch.searchsorted(reached, draw * reached[-1]))
        centres.append(rows[min(picked, len(rows) - 1)])
    return torch.stack(centres)
