"""A shard that is held open: where its samples lie, and their bytes.

Samples are counted in the order of the tar, bad ones among them, so that a damaged shard costs
exactly its bad samples and every other one stays where it is.
"""

import os
import threading
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import DataError, cause
from data.shards import IMAGE_SUFFIXES, BadSample, iter_samples

_SAMPLE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("suffix", "u1")])


class OpenShard:
    """The samples of one tar file, by their number in it.

    Little of it is held in memory: 17 bytes for each sample.

    Attributes:
        label: what the shard is called in messages.
        bad: by number, what there is to say of each sample that cannot be used.
        end: why there are no samples after the last one, where the file is damaged.
    """

    def __init__(
        self,
        label: str,
        path: Path,
        descriptor: int | None = None,
        *,
        memory: Path | None = None,
    ) -> None:
        """Look where the samples are.

        Args:
            path: the file, which stays where it is while it is open.
            descriptor: of the file, to be closed when this shard is not used any more; None: it is
                opened.
            memory: a file that keeps where the samples are, for files that never change; None:
                nothing does.
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
        known = None if memory is None else _read(memory)
        self._samples = self._find() if known is None else known
        if known is None and memory is not None and self.end is None and not self.bad:
            _write(memory, self._samples)

    def _find(self) -> npt.NDArray[np.void]:
        found: list[tuple[int, int, int]] = []
        for sample in iter_samples(self._path, read_images=False):
            if isinstance(sample, BadSample):
                self.end = sample.located(self.label)
                if sample.key:  # else it is the place where the file is damaged
                    self.bad[len(found)] = self.end
                    found.append((0, 0, 0))
            else:
                self.end = None
                suffix = IMAGE_SUFFIXES.index(sample.suffix)
                found.append((sample.image_offset, sample.image_size, suffix))
        return np.array(found, _SAMPLE)

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, number: int) -> tuple[bytes, str]:
        """Return the encoded image of a sample that is not bad, and its ending without the dot.

        Raises:
            DataError: it cannot be read; without the sample's name.
        """
        offset, size, suffix = self._samples[number].item()
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise DataError(f"cannot be read: {cause(error)}") from None
        if len(data) < size:
            raise DataError(f"{len(data)} of its {size} bytes are there: the shard became shorter")
        return data, IMAGE_SUFFIXES[suffix]

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


def _read(memory: Path) -> npt.NDArray[np.void] | None:
    try:
        found = np.load(memory, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # damaged or not there
        return None
    return found if found.dtype == _SAMPLE and found.ndim == 1 else None


def _write(memory: Path, samples: npt.NDArray[np.void]) -> None:
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, samples)
        temporary.replace(memory)
    finally:
        temporary.unlink(missing_ok=True)
