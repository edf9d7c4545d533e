"""Permutations that are as unlike each other as can be.

Shapes: T things, P permutations.
"""

from itertools import permutations

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
    every = np.array(list(permutations(range(things))), dtype=np.int8)
    nearest = np.full(len(every), things + 1, dtype=np.int64)
    sums = np.zeros(len(every), dtype=np.int64)
    chosen = [0]
    while len(chosen) < count:
        distance = (every != every[chosen[-1]]).sum(1)
        sums += distance
        np.minimum(nearest, distance, out=nearest)
        # The sum stays below its weight.
        chosen.append(int((nearest * (things * count + 1) + sums).argmax()))
    return every[chosen].astype(np.int64)
