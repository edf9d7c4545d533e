"""A shard that is held open: where its samples lie, and their bytes.

Samples are counted in the order of the tar, bad ones among them, so that a damaged shard costs
exactly its bad samples and every other one stays where it is.
"""

import array
import os
import weakref
from pathlib import Path

import numpy as np

from data.errors import DataError, cause
from data.shards import IMAGE_SUFFIXES, BadSample, iter_samples


class OpenShard:
    """The samples of one tar file, by their number in it.

    Little of it is held in memory: 17 bytes for each sample.

    Attributes:
        label: what the shard is called in messages.
        bad: by number, what there is to say of each sample that cannot be used.
        end: why there are no samples after the last one, where the file is damaged.
    """

    def __init__(self, label: str, path: Path, descriptor: int | None = None) -> None:
        """Look where the samples are.

        Args:
            path: the file, which stays where it is while it is open.
            descriptor: of the file, to be closed when this shard is not used any more; None: it is
                opened.
        Raises:
            DataError: there is no such file, or it cannot be opened.
        """
        self.label, self._path = label, path
        self.bad: dict[int, str] = {}
        self.end: str | None = None
        if descriptor is None:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise DataError(f"{label}: cannot be opened: {error.strerror}") from None
        self._descriptor = descriptor
        # A thread may still read when others have done with the shard: the last one closes it.
        weakref.finalize(self, os.close, descriptor)
        offsets, sizes, suffixes = array.array("q"), array.array("q"), array.array("B")
        for sample in iter_samples(path, read_images=False):
            if isinstance(sample, BadSample):
                self.end = sample.located(label)
                if not sample.key:
                    continue  # the place where the file is damaged
                self.bad[len(offsets)] = self.end
                offsets.append(0)
                sizes.append(0)
                suffixes.append(0)
            else:
                self.end = None
                offsets.append(sample.image_offset)
                sizes.append(sample.image_size)
                suffixes.append(IMAGE_SUFFIXES.index(sample.suffix))
        self._offsets, self._sizes = np.array(offsets), np.array(sizes)
        self._suffixes = np.array(suffixes)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, number: int) -> tuple[bytes, str]:
        """Return the encoded image of a sample that is not bad, and its ending without the dot.

        Raises:
            DataError: it cannot be read; without the sample's name.
        """
        size = int(self._sizes[number])
        try:
            data = os.pread(self._descriptor, size, int(self._offsets[number]))
        except OSError as error:
            raise DataError(f"cannot be read: {cause(error)}") from None
        if len(data) < size:
            raise DataError(f"{len(data)} of its {size} bytes are there: the shard became shorter")
        return data, IMAGE_SUFFIXES[self._suffixes[number]]

    def name(self, number: int, reason: str) -> str:
        """Return what there is to say of a sample that turned out bad, named as in a bad shard."""
        found = 0
        for sample in iter_samples(self._path, read_images=False):
            if isinstance(sample, BadSample) and not sample.key:
                continue
            if found == number:
                bad = BadSample(self._path, sample.offset, sample.key, reason)
                return bad.located(self.label)
            found += 1
        return f"{self.label}: {reason}"
