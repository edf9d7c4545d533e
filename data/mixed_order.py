"""The order of images from several sources, of which every batch holds shares by their weights.

Shapes: K sources, G rows of a global batch, B rows of a slice of it.
"""

import math
import zlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.order import EpochOrder, Places, permutation

_ROWS = zlib.crc32(b"rows of several sources")


class MixedOrder:
    """Each source in its own epochs, end to end, at the rate that its weight gives it.

    After any step the images taken of a source are less than one away from its share of all: the
    whole parts of the shares, and one image more of those with the largest rests, the first of
    equal ones. Within a batch the sources are mixed at random.
    """

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """Order images whose places are those of the first source, then of the next, and so on.

        Args:
            counts: images of each source; K of them.
            weights: of each, above 0, in any unit.
        Raises:
            DataError: a source without images, or of so little weight that not every batch holds
                one of its images.
        """
        self.batch_size = batch_size
        total = sum(map(Fraction, weights))
        self._shares = [Fraction(weight) / total * batch_size for weight in weights]
        for number, (count, share) in enumerate(zip(counts, self._shares, strict=True)):
            if count == 0:
                raise DataError(f"data.shards: source {number} has no images to train on")
            if share < 1:
                raise DataError(
                    f"data.shards: source {number} has weight {weights[number]:g} of "
                    f"{float(total):g}, less than an image in each batch of {batch_size}; give it "
                    "more weight, or take a larger batch_size"
                )
        self._starts = np.cumsum([0, *counts[:-1]])
        self._count = sum(counts)
        self._seed = seed
        self._orders = [
            EpochOrder(count, batch_size=1, seed=_seed_of(seed, number))
            for number, count in enumerate(counts)
        ]

    def __len__(self) -> int:
        """Return the number of images of all sources: an epoch shows so many."""
        return self._count

    def taken(self, steps: int) -> npt.NDArray[np.int64]:
        """Return how many images of each source the first steps hold, int64 [K]."""
        due = [share * steps for share in self._shares]
        taken = [math.floor(share) for share in due]
        rests = sorted(range(len(due)), key=lambda number: (taken[number] - due[number], number))
        for number in rests[: self.batch_size * steps - sum(taken)]:
            taken[number] += 1
        return np.array(taken, np.int64)

    def places(self, step: int, start: int = 0, stop: int | None = None) -> Places:
        """Return those of rows [start, stop) of a step's global batch, int64 [B]."""
        first, last = self.taken(step), self.taken(step + 1)
        parts = [
            begin + order.endless(int(one), int(other - one))
            for begin, order, one, other in zip(
                self._starts, self._orders, first, last, strict=True
            )
        ]
        mixed = permutation(self.batch_size, self._seed, _ROWS, step)[start:stop]
        return np.concatenate(parts)[mixed]


def _seed_of(seed: int, source: int) -> int:
    return int(np.random.SeedSequence((seed, _ROWS, source)).generate_state(1, np.uint64)[0])
