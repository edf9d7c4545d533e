"""The order of images: which of them each step's batch holds, as a pure function of (seed, step).

Shapes: N images of an epoch, G rows of a global batch, B rows of a slice of it.
"""

import zlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]
"""Images as their places 0 .. N - 1 in an epoch."""

_ORDER = zlib.crc32(b"order")


class Order(Protocol):
    """Places of the images in each step's batch."""

    batch_size: int

    def __len__(self) -> int:
        """Return N."""
        ...

    def places(self, step: int, start: int = 0, stop: int | None = None) -> Places:
        """Return those of rows [start, stop) of a step's global batch, int64 [B]."""
        ...


class EpochOrder:
    """The permutations of one epoch after another, end to end.

    A batch may straddle epochs, so no image is left out where G does not divide N.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._count, self._seed = count, seed
        self._permutations: dict[int, Places] = {}

    def __len__(self) -> int:
        return self._count

    def places(self, step: int, start: int = 0, stop: int | None = None) -> Places:
        """Return those of rows [start, stop) of a step's global batch, int64 [B]."""
        first, last, _ = slice(start, stop).indices(self.batch_size)
        return self.endless(step * self.batch_size + first, max(0, last - first))

    def endless(self, position: int, wanted: int) -> Places:
        """Return so many places from a position on, counted over all epochs; not to be changed."""
        pieces: list[Places] = []
        while wanted or not pieces:
            epoch, begin = divmod(position, self._count)
            pieces.append(self._permutation(epoch)[begin : begin + wanted])
            position += len(pieces[-1])
            wanted -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _permutation(self, epoch: int) -> Places:
        found = self._permutations.get(epoch)
        if found is None:
            found = permutation(self._count, self._seed, _ORDER, epoch)
            # A batch rarely spans more than two epochs; older orders are not needed again.
            before = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            self._permutations = before | {epoch: found}
        return found


def permutation(count: int, *seeds: int) -> Places:
    """Return a random order of 0 .. count - 1 that depends on the seeds alone, int64 [count]."""
    # The quickest of numpy's generators: making orders is felt beside gathering small images.
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seeds))).permutation(count)
