"""Where in some shards each image lies, so that any of them is read without those before it.

An index is kept in `.underlayer` beside the first shard by the names, sizes and times of change of
the shards: it says where bytes are, and what they are is looked at whenever they are read.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.progress import Progress
from data.shards import IMAGE_SUFFIXES, BadSample, Sample, iter_samples

_FORMAT = 2
NO_LABEL = -1
# Starting processes takes longer than walking through the headers of fewer shards.
_SHARDS_WORTH_PROCESSES = 16
_COLUMNS = ("shard", "offset", "size", "suffix", "label")


@dataclass(frozen=True)
class ShardIndex:
    """The images of some shards in order, N of them.

    Fields:
        shards: the files.
        shard: int32 [N], place in `shards`; offset, size: int64 [N], bytes; suffix: uint8 [N],
            place in `IMAGE_SUFFIXES`; label: int64 [N], -1 where there is none.
        keys: of each image; bad: samples that cannot be used, by their place in the tars alone.
    """

    shards: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    suffix: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]
    keys: list[str]
    bad: list[BadSample]

    def __len__(self) -> int:
        return len(self.shard)

    def named(self, row: int, reason: str) -> BadSample:
        """Return an image as a sample that cannot be used."""
        place, offset = self.shards[int(self.shard[row])], int(self.offset[row])
        for sample in iter_samples(place, read_images=False):
            # Samples are named by where they begin, here as everywhere.
            if isinstance(sample, Sample) and sample.image_offset == offset:
                offset = sample.offset
                break
        return BadSample(place, offset, self.keys[row], reason)


def open_index(shards: Sequence[Path], memory: Path | None, *, workers: int = 1) -> ShardIndex:
    """Return the index of some shards, built now if it is not known.

    Args:
        memory: an existing folder where indexes are kept; None: nowhere.
        workers: processes that build it.
    Raises:
        DataError: a shard that cannot be opened, or without images.
    """
    states = [(shard.name, shard.stat()) for shard in shards]
    identity = [_FORMAT, *([name, one.st_size, one.st_mtime_ns] for name, one in states)]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = None if memory is None else memory / f"index-{name}.npz"
    if path is not None and (found := _read(path, shards)) is not None:
        return found
    index = _build(shards, workers)
    if path is not None:
        _write(path, index)
    return index


@dataclass(frozen=True)
class _Part:
    """What one shard adds: rows of (offset, size, suffix, label), keys, and bad samples."""

    rows: list[tuple[int, int, int, int]]
    keys: list[str]
    bad: list[tuple[int, str, str]]


def _part(shard: Path) -> _Part:
    part = _Part([], [], [])
    for sample in iter_samples(shard, read_images=False):
        if isinstance(sample, BadSample):
            part.bad.append((sample.offset, sample.key, sample.reason))
            continue
        suffix = IMAGE_SUFFIXES.index(sample.suffix)
        label = NO_LABEL if sample.label is None else sample.label
        part.rows.append((sample.image_offset, sample.image_size, suffix, label))
        part.keys.append(sample.key)
    if not part.rows and not part.bad:
        raise DataError(
            f"{shard}: holds no images; an image is a member that ends in "
            f".{' .'.join(IMAGE_SUFFIXES)}"
        )
    return part


def _build(shards: Sequence[Path], workers: int) -> ShardIndex:
    parts: list[_Part] = []
    with Progress("finding images", len(shards)) as progress:
        if workers > 1 and len(shards) >= _SHARDS_WORTH_PROCESSES:
            with ProcessPoolExecutor(workers) as pool:
                for part in pool.map(_part, shards, chunksize=4):
                    parts.append(part)
                    progress.step()
        else:
            for shard in shards:
                parts.append(_part(shard))
                progress.step()
    counts = [len(part.rows) for part in parts]
    rows = np.array([row for part in parts for row in part.rows], np.int64).reshape(-1, 4)
    return ShardIndex(
        shards=tuple(shards),
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        offset=rows[:, 0],
        size=rows[:, 1],
        suffix=rows[:, 2].astype(np.uint8),
        label=rows[:, 3],
        keys=[key for part in parts for key in part.keys],
        bad=[
            BadSample(shard, *found)
            for shard, part in zip(shards, parts, strict=True)
            for found in part.bad
        ],
    )


def _write(path: Path, index: ShardIndex) -> None:
    places = {shard: number for number, shard in enumerate(index.shards)}
    texts = {
        "keys": index.keys,
        "bad": [[places[b.shard], b.offset, b.key, b.reason] for b in index.bad],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            columns = {name: getattr(index, name) for name in _COLUMNS}
            text = np.frombuffer(json.dumps(texts).encode(), np.uint8)
            np.savez(file, text=text, **columns)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, shards: Sequence[Path]) -> ShardIndex | None:
    """The index in a file; None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as found:
            columns = {name: found[name] for name in _COLUMNS}
            texts = json.loads(found["text"].tobytes())
        return ShardIndex(
            shards=tuple(shards),
            keys=texts["keys"],
            bad=[BadSample(shards[place], *rest) for place, *rest in texts["bad"]],
            **columns,
        )
    except Exception:  # damaged, which shows in many ways: it is built again
        return None
