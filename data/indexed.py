"""Images that stay in their shards, decoded when they are asked for: for sets too large for memory.

Shapes: N images, B rows, C channels, H height, W width.
"""

import contextlib
import mmap
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decoded import DecodedImages
from data.errors import DataError, cause
from data.shard_index import ShardIndex
from data.shards import IMAGE_SUFFIXES, BadSample

_OPEN_SHARDS = 256


class IndexedImages(DecodedImages):
    """Images of shards at hand; what is read of them is mapped from their files."""

    def __init__(
        self,
        index: ShardIndex,
        *,
        channels: int | None,
        size: int | None,
        skip_bad: bool,
        threads: int,
    ) -> None:
        """Decode the first image, which says what shape all have.

        Args:
            channels, size: what images are brought to, as by `decode_image`; None: as they are.
            skip_bad: an image that does not decode is replaced by the one that follows it, and
                said once; False: it ends the run.
            threads: that decode at a time.
        Raises:
            DataError: there are no images, or the first of them does not decode.
        """
        super().__init__(channels=channels, size=size, threads=threads)
        self.index = index
        self.bad: dict[int, BadSample] = {}
        self._skip_bad = skip_bad
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()
        if not len(index):
            first = f", the first: {index.bad[0]}" if index.bad else ""
            raise DataError(f"none of the {len(index.bad)} samples can be used{first}")
        self._first(self._image(0), len(index))

    def _image(
        self, row: int, out_HWC: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        index = self.index
        for other in range(len(index)):
            place = (row + other) % len(index)
            if place in self.bad:
                continue
            start, size = int(index.offset[place]), int(index.size[place])
            data = self._map(int(index.shard[place]))[start : start + size]
            try:
                return self._decode(data, IMAGE_SUFFIXES[index.suffix[place]], out_HWC)
            except DataError as error:
                self._report(place, str(error))
        raise DataError(f"none of the {len(index)} samples can be used")

    def _report(self, row: int, reason: str) -> None:
        bad = self.index.named(row, reason)
        if not self._skip_bad:
            raise DataError(f"{bad}; data.on_bad=skip leaves such samples out")
        with self._lock:
            known = row in self.bad
            self.bad[row] = bad
        if not known:
            print(f"warning: {bad}; the next image takes its place", file=sys.stderr)

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            found = self._maps.get(shard)
            if found is None:
                found = self._maps[shard] = _mapped(self.index.shards[shard])
                # A map that a thread still reads goes when that thread is done.
                while len(self._maps) > _OPEN_SHARDS:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(shard)
        return found


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read any more: {cause(error)}") from None
    with contextlib.suppress(AttributeError, OSError):
        found.madvise(mmap.MADV_RANDOM)
    return found
