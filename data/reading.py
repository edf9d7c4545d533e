"""Opening the images of shards in the way that their size and place ask for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data.errors import DataError
from data.indexed_store import IndexedStore, open_indexed
from data.mixed_store import MixedStore, WeightedShards, mix
from data.shards import expand_shards
from data.store import ReadingConfig, ResidentStore, dataset_of
from data.streamed_store import StreamedStore, StreamingConfig, open_streamed
from data.urls import scheme_of

__all__ = [
    "IndexedStore",
    "MixedStore",
    "ReadingMode",
    "ResidentStore",
    "Store",
    "StreamedStore",
    "StreamingConfig",
    "WeightedShards",
    "open_images",
]

Store = ResidentStore | IndexedStore | StreamedStore | MixedStore

ReadingMode = Literal["auto", "resident", "indexed", "streaming"]

_LARGEST_RESIDENT_SHARE = 0.5
"""Of the machine's memory: decoded images above it are left in their shards by `auto`."""


def open_images(
    config: ReadingConfig,
    shards: str | Sequence[str] | Sequence[WeightedShards],
    mode: ReadingMode,
    *,
    streaming: StreamingConfig = StreamingConfig(),
    held_out: float = 0.0,
) -> Store:
    """Open the images of shards: decoded into one file, left in the shards, or fetched.

    Args:
        shards: one source, or several, which are local.
        mode: auto: streaming where any shard is a URL; else decoded, unless that takes more than
            half of the machine's memory.
        streaming, held_out: as for `open_streamed`.
    Raises:
        DataError: as `open_store` and `open_streamed`.
    """
    sources = [one for one in shards if isinstance(one, WeightedShards)]
    if sources:
        return mix([_open_local(config, source, mode) for source in sources], sources)
    plain = shards if isinstance(shards, str) else [str(one) for one in shards]
    if mode == "auto":
        mode = _mode_of(config, plain)
    if mode == "streaming":
        return open_streamed(config, plain, streaming, held_out)
    if mode == "indexed":
        return open_indexed(config, plain)
    return config.open(plain)


def _open_local(
    config: ReadingConfig, source: WeightedShards, mode: ReadingMode
) -> ResidentStore | IndexedStore:
    """Open one of several sources."""
    if mode == "auto":
        mode = _mode_of(config, source.shards)
    if mode == "streaming":
        raise DataError(
            f"data.shards: found {source.shards!r} to be streamed among several sources; these are "
            "read from memory or from shards at hand: copy the shards here, or name one source"
        )
    return open_indexed(config, source.shards) if mode == "indexed" else config.open(source.shards)


def _mode_of(config: ReadingConfig, shards: str | Sequence[str]) -> ReadingMode:
    specs = [shards] if isinstance(shards, str) else shards
    if any(scheme_of(spec) is not None for spec in specs):
        return "streaming"
    return "indexed" if _is_large(config, expand_shards(shards)) else "resident"


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
