"""The images of shards left where they are, with what a resident store says of its own."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.cores import available_cores
from data.dataset import DatasetInfo
from data.indexed import IndexedImages
from data.shard_hashes import hash_shards
from data.shard_index import open_index
from data.shards import expand_shards
from data.store import ReadingConfig, ResidentStore, bad_samples_in_words, dataset_of, memory_of

ReadingMode = Literal["auto", "resident", "indexed"]

_LARGEST_RESIDENT_SHARE = 0.5
"""Of the machine's memory: decoded images above it are left in their shards by `auto`."""


@dataclass(frozen=True)
class IndexedStore:
    """Images that are decoded when they are asked for, in the order of the shards.

    Fields:
        fingerprint: of the shards' bytes and of what images are brought to.
        info: the `dataset.json` beside the shards, if it lists them.
    """

    images: IndexedImages
    fingerprint: str
    info: DatasetInfo | None

    def __len__(self) -> int:
        return len(self.images)


def open_images(
    config: ReadingConfig, shards: str | Sequence[str], mode: ReadingMode
) -> ResidentStore | IndexedStore:
    """Open the images of shards, decoded into one file or left in the shards.

    Args:
        mode: auto: decoded, unless that takes more than half of the machine's memory.
    Raises:
        DataError: as `open_store`.
    """
    if mode == "auto":
        mode = "indexed" if _is_large(config, expand_shards(shards)) else "resident"
    if mode == "resident":
        return config.open(shards)
    return _open_indexed(config, expand_shards(shards))


def _open_indexed(config: ReadingConfig, paths: Sequence[Path]) -> IndexedStore:
    memory = memory_of(paths)
    index = open_index(paths, memory, workers=available_cores())
    if index.bad:
        found = bad_samples_in_words(
            index.bad, len(index) + len(index.bad), config.on_bad, config.max_bad_share
        )
        print(f"warning: {found}", file=sys.stderr)
    images = IndexedImages(
        index,
        channels=config.channels,
        size=config.size,
        skip_bad=config.on_bad == "skip",
        threads=available_cores(),
    )
    identity = ["shards", hash_shards(paths, memory), config.channels, config.size]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return IndexedStore(images, fingerprint, dataset_of(paths))


def _is_large(config: ReadingConfig, paths: Sequence[Path]) -> bool:
    """Whether images decoded are too many to be kept, by what dataset.json says of them."""
    info = dataset_of(paths)
    if info is None:
        return False
    channels, height, width = info.image_shape
    if config.size is not None:
        height = width = config.size
    pixels = sum(info.counts.values()) * (config.channels or channels) * height * width
    return pixels > _LARGEST_RESIDENT_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_PHYS_PAGES"
    )
