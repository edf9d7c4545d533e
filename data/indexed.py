"""Images that stay in their shards, decoded when they are asked for: for sets too large for memory.

Shapes: N images, B rows, C channels, H height, W width.
"""

import contextlib
import mmap
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.decode import MAX_PIXELS, decode_image
from data.decode_ahead import MAX_AHEAD_PIXELS
from data.errors import DataError, cause
from data.shard_index import ShardIndex
from data.shards import IMAGE_SUFFIXES, BadSample

_OPEN_SHARDS = 256
_ROWS_TOGETHER = 8


class IndexedImages:
    """Images uint8 [N, C, H, W] by their rows, as a tensor of them would give them.

    Every image is decoded by the rules of `decode_image`, so that it equals that of a resident
    store. Several threads decode, very large images one at a time; what they read is mapped from
    the shards.

    Attributes:
        shape: (N, C, H, W).
    """

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
        self.index = index
        self.bad: dict[int, BadSample] = {}
        self._channels, self._size, self._skip_bad = channels, size, skip_bad
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()
        self._large_lock = threading.Lock()
        if not len(index):
            first = f", the first: {index.bad[0]}" if index.bad else ""
            raise DataError(f"none of the {len(index.bad)} samples can be used{first}")
        self._image_shape: tuple[int, ...] | None = None
        self._image_shape = self._decoded(0).shape
        self.shape = (len(index), *self._image_shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        """Return some images, uint8 [B, C, H, W]."""
        if isinstance(rows, slice):
            return self.take(np.arange(len(self))[rows])
        return self.take(np.asarray(rows, np.int64))

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return images by their rows, uint8 [B, C, H, W].

        Raises:
            DataError: naming the sample that does not decode, or has another shape.
        """
        batch = np.empty((len(rows), *self.shape[1:]), np.uint8)
        starts = range(0, len(rows), _ROWS_TOGETHER)

        def fill(start: int) -> None:
            for place in range(start, min(start + _ROWS_TOGETHER, len(rows))):
                batch[place] = self._decoded(int(rows[place]))

        for _ in self._pool.map(fill, starts):
            pass
        return torch.from_numpy(batch)

    def _decoded(self, row: int) -> npt.NDArray[np.uint8]:
        for other in range(len(self.index)):
            place = (row + other) % len(self.index)
            reason = self.bad[place].reason if place in self.bad else None
            if reason is None:
                try:
                    return self._decode(place)
                except DataError as error:
                    reason = str(error)
            self._report(place, reason)
        raise DataError(f"none of the {len(self.index)} samples can be used")

    def _decode(self, row: int) -> npt.NDArray[np.uint8]:
        index = self.index
        start, size = int(index.offset[row]), int(index.size[row])
        data = self._map(int(index.shard[row]))[start : start + size]
        suffix = IMAGE_SUFFIXES[index.suffix[row]]
        try:
            image = self._decode_up_to(MAX_AHEAD_PIXELS, data, suffix)
        except DataError:  # too large for several threads at once, or bad
            with self._large_lock:
                image = self._decode_up_to(MAX_PIXELS, data, suffix)
        if self._image_shape is not None and image.shape != self._image_shape:
            found, first = ("x".join(map(str, s)) for s in (image.shape, self._image_shape))
            raise DataError(
                f"image of {found} (channels x height x width) among images of {first}: set "
                "data.size and data.channels to bring all to one shape"
            )
        return image

    def _decode_up_to(self, max_pixels: int, data: bytes, suffix: str) -> npt.NDArray[np.uint8]:
        return decode_image(
            data, suffix, channels=self._channels, size=self._size, max_pixels=max_pixels
        )

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
