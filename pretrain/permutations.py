"""Permutations that are as unlike each other as can be.

Shapes: T things, P permutations.
"""

import numpy as np
import numpy.typing as npt


def unlike_permutations(things: int, count: int) -> npt.NDArray[np.int64]:
    """Return permutations [P, T], always the same ones, each found greedily.

    The first is the identity; each further one has the largest Hamming distance from the nearest of
    those before it, and of these the largest sum of distances, and then the first in lexicographic
    order (as Noroozi & Favaro 2016, algorithm 1, who take the largest mean distance).

    Args:
        things: T, at most 9.
        count: P, at most T!.
    """
    every = _every(things)
    nearest = np.full(every.shape[1], things + 1, dtype=np.int32)
    sums = np.zeros(every.shape[1], dtype=np.int32)
    chosen = [0]
    while len(chosen) < count:
        last = every[:, chosen[-1]]
        distance = np.zeros(every.shape[1], dtype=np.int8)
        for place in range(things):
            distance += every[place] != last[place]
        sums += distance
        np.minimum(nearest, distance, out=nearest)
        # The sum stays below its weight.
        chosen.append(int((nearest * (things * count + 1) + sums).argmax()))
    return every[:, chosen].T.astype(np.int64)


def _every(things: int) -> npt.NDArray[np.int8]:
    """Return all permutations in lexicographic order, one a column, [T, T!]."""
    if things == 1:
        return np.zeros((1, 1), dtype=np.int8)
    others = _every(things - 1)
    blocks = [
        np.vstack([np.full((1, others.shape[1]), first, dtype=np.int8), others + (others >= first)])
        for first in range(things)
    ]
    return np.hstack(blocks).astype(np.int8)
