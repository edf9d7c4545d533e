"""How many samples each shard holds, without opening them all where that is known.

Sets that were packed say so in their dataset.json. Those of other makers are read through once, and
what was found is kept.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.dataset import DatasetInfo
from data.errors import DataError
from data.open_shard import OpenShard
from data.progress import Progress
from data.shard_places import Place, label_of, name_of

_FORMAT = 1

Counts = npt.NDArray[np.int64]


def listed_counts(info: DatasetInfo | None, places: Sequence[Place]) -> Counts | None:
    """Return the samples in each shard as dataset.json lists them, int64 [S]; None: it does not."""
    if info is None or info.shard_counts is None:
        return None
    return np.array([info.shard_counts[name_of(place)] for place in places], np.int64)


def counted(
    places: Sequence[Place], open_shard: Callable[[Place], OpenShard], memory: Path, threads: int
) -> Counts:
    """Return the samples in each shard, int64 [S], counted now unless they were before.

    Args:
        open_shard: opens a shard; called by so many threads.
        memory: an existing folder where counts are kept, by the shards' names alone for URLs, and
            by their sizes and times of change too for files.
    Raises:
        DataError: a shard that cannot be opened, or without samples.
    """
    identity = json.dumps([_FORMAT, [_identity(place) for place in places]])
    path = memory / f"counts-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    known = _read(path, len(places))
    if known is not None:
        return known

    def count(place: Place) -> int:
        shard = open_shard(place)
        if not len(shard):
            raise DataError(shard.end or f"{label_of(place)}: holds no images")
        return len(shard)

    found = []
    with (
        Progress("counting samples, once: shards", len(places)) as progress,
        ThreadPoolExecutor(threads) as pool,
    ):
        for number in pool.map(count, places):
            found.append(number)
            progress.step()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(found), "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return np.array(found, np.int64)


def _identity(place: Place) -> str | list[object]:
    if isinstance(place, str):
        return place
    status = place.stat()
    return [str(place.resolve()), status.st_size, status.st_mtime_ns]


def _read(path: Path, shards: int) -> Counts | None:
    try:
        found = np.array(json.loads(path.read_bytes()), np.int64)
    except (OSError, ValueError, OverflowError):  # damaged or not there: they are counted again
        return None
    return found if found.shape == (shards,) and (found > 0).all() else None
