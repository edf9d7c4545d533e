"""The images of shards left where they are, with what a resident store says of its own."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from data.cores import available_cores
from data.dataset import DatasetInfo
from data.fingerprints import packed_fingerprint
from data.indexed import IndexedImages
from data.shard_hashes import hash_shards
from data.shard_index import open_index
from data.shards import expand_shards
from data.store import ReadingConfig, bad_samples_in_words, dataset_of, memory_of


@dataclass(frozen=True)
class IndexedStore:
    """Images that are decoded when they are asked for, in the order of the shards.

    Fields:
        fingerprint: that of a resident store, where dataset.json says it of just these bytes; else
            of the shards' bytes and of what images are brought to.
        info: the `dataset.json` beside the shards, if it lists them.
    """

    images: IndexedImages
    fingerprint: str
    info: DatasetInfo | None

    def __len__(self) -> int:
        return len(self.images)


def open_indexed(config: ReadingConfig, shards: str | Sequence[str]) -> IndexedStore:
    """Open the images of shards, which are left in them.

    Raises:
        DataError: as `open_store`.
    """
    paths = expand_shards(shards)
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
    info, hashes = dataset_of(paths), hash_shards(paths, memory)
    fingerprint = None
    if not index.bad and info is not None and info.sha256 is not None:
        names = [path.name for path in paths]
        if hashes == [info.sha256[name] for name in names]:
            fingerprint = packed_fingerprint(
                info, names, channels=config.channels, size=config.size
            )
    if fingerprint is None:
        identity = ["shards", hashes, config.channels, config.size]
        fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return IndexedStore(images, fingerprint, info)
