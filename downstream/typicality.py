"""What to label while labels are few: the most typical image of each cluster that has no label.

TypiClust (Hacohen et al. 2022, "Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets"): there are as many clusters as there will be labels, so that labels cover what images
there are, and typical ones stand for many.

Shapes: N rows, K columns.
"""

from dataclasses import dataclass

import numpy as np
import torch

from downstream.clusters import Integers, Rows, cluster

_MOST_CLUSTERS = 500
_SMALLEST_CLUSTER = 5
_NEIGHBOURS = 20
_MOST_MEMBERS = 5000


@dataclass(frozen=True)
class Suggestion:
    """The row of an image to label, and why."""

    row: int
    why: str


def most_typical(
    rows: Rows, count: int, *, labelled: Integers, generator: np.random.Generator
) -> list[Suggestion]:
    """Suggest `count` rows, most urgent first.

    One after the other, the most typical row that is left is taken of the cluster with the fewest
    labels, the largest first. Typicality is the inverse of the mean distance to the 20 nearest rows
    of the cluster.

    Args:
        rows: [N, K]; count: at most the number of rows without a label.
        labelled: rows that have a label.
    """
    clusters = min(len(labelled) + count, _MOST_CLUSTERS, len(rows))
    places, distances = cluster(rows, clusters, generator)
    sizes = np.bincount(places, minlength=clusters)
    with_label = np.bincount(places[labelled], minlength=clusters)
    taken = np.zeros(len(rows), bool)
    taken[labelled] = True
    free = sizes - with_label
    rankings: dict[int, list[int]] = {}
    found: list[Suggestion] = []
    covered = with_label.copy()
    while len(found) < count:
        # Clusters of a few rows are outliers, and come last.
        small = sizes < _SMALLEST_CLUSTER
        order = np.lexsort((-sizes, covered, small, free == 0))
        chosen = int(order[0])
        if chosen not in rankings:
            members = np.flatnonzero(places == chosen)
            rankings[chosen] = [row for row in _ranked(rows, members, distances) if not taken[row]]
            rankings[chosen].reverse()
        row = rankings[chosen].pop()
        labels = int(covered[chosen])
        found.append(
            Suggestion(
                row,
                f"most typical of a cluster of {sizes[chosen]:,} images with "
                f"{f'{labels:,} labelled or suggested' if labels else 'no label'}",
            )
        )
        covered[chosen] += 1
        free[chosen] -= 1
    return found


def _ranked(rows: Rows, members: Integers, distances: Rows) -> list[int]:
    """A cluster's members, the most typical first; beyond 5,000 those far from its centre last."""
    order = members[np.argsort(distances[members], kind="stable")]
    near, far = order[:_MOST_MEMBERS], order[_MOST_MEMBERS:]
    known = torch.from_numpy(rows[near])
    neighbours = min(_NEIGHBOURS + 1, len(near))  # the nearest is the row itself
    spread = [
        torch.cdist(part, known).topk(neighbours, dim=1, largest=False).values.mean(dim=1)
        for part in known.split(1000)
    ]
    return [*near[torch.cat(spread).argsort(stable=True).numpy()].tolist(), *far.tolist()]
