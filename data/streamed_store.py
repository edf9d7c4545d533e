"""Opening images that are streamed: their shards, how many samples each holds, and a cache."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator

from data.cores import available_cores
from data.dataset import DATASET_FILE, DatasetInfo, parse_dataset_info
from data.errors import DataError
from data.fingerprints import packed_fingerprint
from data.open_shard import OpenShard
from data.order import permutation
from data.remote_files import RemoteFiles
from data.shard_cache import ShardCache
from data.shard_counts import Counts, counted, listed_counts
from data.shard_fetcher import Fetching, ShardFetcher
from data.shard_places import Place, beside, expand_places, label_of, name_of
from data.shard_size import parse_bytes
from data.store import ReadingConfig, dataset_of
from data.stream_order import StreamOrder
from data.streamed import StreamedImages

_HELD_OUT = zlib.crc32(b"held-out shards")
_MOST_INFO_BYTES = 2**28
_SECRETS = ("key", "secret", "token", "password", "auth", "authorization", "cookie")


def _bytes(text: str) -> str:
    parse_bytes(text)
    return text


class CacheConfig(BaseModel):
    """Where shards from elsewhere are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str | None = Field(
        None,
        description="variables of the environment are filled in, so that each job may have its "
        "own; null: underlayer/shards in $XDG_CACHE_HOME or ~/.cache",
    )
    size: Annotated[str, AfterValidator(_bytes)] = Field(
        "16GB",
        description="most bytes in it, such as 500MB; the least recently used go. It must hold "
        "2 x lanes x window shards",
    )


class StreamingConfig(BaseModel):
    """How shards are streamed, where data.mode is streaming."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lanes: int = Field(
        8,
        ge=1,
        description="streams that a batch is made of, each with shards of its own; the samples of "
        "a step depend on it. Let batch_size be a multiple of it, and it of the number of ranks",
    )
    window: int = Field(
        2,
        ge=1,
        description="shards of a lane whose samples are mixed; the samples of a step depend on it",
    )
    connections: int = Field(8, ge=1, description="shards that each rank fetches at a time")
    retries: int = Field(5, ge=0, description="how often a request that gets nowhere is made again")
    first_wait: float = Field(
        0.5, ge=0, description="seconds before the first of these; doubled each time, up to 30"
    )
    timeout: float = Field(
        30, gt=0, description="seconds without an answer after which a request has failed"
    )
    cache: CacheConfig = CacheConfig()
    storage_options: dict[str, JsonValue] = Field(
        default={},
        description="of fsspec's file system, such as endpoint_url of S3; credentials are left to "
        "the environment",
    )

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if (name := _secret_in(options)) is not None:
            raise ValueError(
                f"found {name}; it would end up in config.yaml: leave credentials to the "
                "environment, such as AWS_ACCESS_KEY_ID, or to ~/.netrc"
            )
        return options


@dataclass(frozen=True)
class StreamedStore:
    """Images that are fetched and decoded when they are asked for.

    Fields:
        images: those of the shards that are trained on, then those of the shards held out.
        trained: how many images the former are.
        counts: samples in each shard that is trained on, int64 [S].
        fingerprint: that of a resident store, where dataset.json says it; else of the shards'
            names and counts and of what images are brought to.
        info: the `dataset.json` beside the shards, if it lists them.
    """

    images: StreamedImages
    trained: int
    counts: Counts
    fingerprint: str
    info: DatasetInfo | None
    config: StreamingConfig

    def __len__(self) -> int:
        return len(self.images)

    def order(self, *, batch_size: int, seed: int) -> StreamOrder:
        """Return the order of the images that are trained on."""
        return StreamOrder(
            self.counts,
            batch_size=batch_size,
            seed=seed,
            lanes=self.config.lanes,
            window=self.config.window,
        )


def open_streamed(
    config: ReadingConfig,
    spec: str | Sequence[str],
    streaming: StreamingConfig,
    held_out: float,
) -> StreamedStore:
    """Open the images of shards here or elsewhere; of shards elsewhere the first alone is fetched.

    Args:
        held_out: share of the shards that are kept out of training, in [0, 1).
    Raises:
        DataError: shards that cannot be named, listed, fetched or opened, or hold no images, or a
            share that leaves no shard on one of the sides; one line.
    """
    fetching = Fetching(
        folder=_cache_folder(streaming.cache).absolute(),
        limit=parse_bytes(streaming.cache.size),
        connections=streaming.connections,
        options=dict(streaming.storage_options),
        retries=streaming.retries,
        first_wait=streaming.first_wait,
        timeout=streaming.timeout,
    )
    files = fetching.files()
    places = expand_places(spec, files.list_matching)
    info = _dataset_of(places, files)
    counts, counted_by = listed_counts(info, places), DATASET_FILE
    are_remote = any(isinstance(place, str) for place in places)
    if counts is None or are_remote:
        _make(fetching.folder)
    cache = ShardCache(fetching.folder, fetching.limit, files)
    fetcher = ShardFetcher(fetching) if are_remote else None

    def open_place(place: Place) -> OpenShard:
        if isinstance(place, Path):
            return OpenShard(str(place), place)
        return cache.open(place, None if fetcher is None else fetcher.fetch(place))

    if counts is None:
        counts = counted(places, open_place, fetching.folder, streaming.connections)
        counted_by = "an earlier count"
    order, trained_shards = _held_out_last(len(places), held_out)
    fingerprint = _fingerprint(config, places, counts, info)
    places, counts = [places[number] for number in order], counts[order]

    def open_shard(number: int) -> OpenShard:
        shard = open_place(places[number])
        if len(shard) > counts[number]:
            raise DataError(
                f"{shard.label}: holds {len(shard)} samples, {counts[number]} by {counted_by}: it "
                "was changed"
            )
        return shard

    images = StreamedImages(
        open_shard,
        counts,
        channels=config.channels,
        size=config.size,
        skip_bad=config.on_bad == "skip",
        max_bad_share=config.max_bad_share,
        threads=available_cores(),
        connections=streaming.connections,
    )
    trained = counts[:trained_shards]
    return StreamedStore(images, int(trained.sum()), trained, fingerprint, info, streaming)


def _cache_folder(config: CacheConfig) -> Path:
    if config.folder is not None:
        return Path(os.path.expandvars(config.folder)).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "underlayer", "shards")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise DataError(
            f"data.streaming.cache.folder: nothing can be written in {folder}; give another folder"
        )


def _dataset_of(places: Sequence[Place], files: RemoteFiles) -> DatasetInfo | None:
    paths = [place for place in places if isinstance(place, Path)]
    if len(paths) == len(places):
        return dataset_of(paths)
    beside_all = {beside(place, DATASET_FILE) for place in places}
    found = beside_all.pop()
    if beside_all or isinstance(found, Path):
        return None
    text = files.read(found, _MOST_INFO_BYTES)
    if text is None:
        return None
    info = parse_dataset_info(text, label_of(found))
    listed = {name for names in info.shards.values() for name in names}
    return info if all(name_of(place) in listed for place in places) else None


def _held_out_last(shards: int, share: float) -> tuple[np.ndarray, int]:
    """The shards with those held out behind the others, and how many the others are.

    Which they are depends on the number of shards and the share alone: runs with other seeds keep
    out the same images.
    """
    kept_out = round(share * shards)
    if share > 0 and not 0 < kept_out < shards:
        raise DataError(
            f"data.held_out: found {share:g}, which is {kept_out} of {shards} shards: streaming "
            "keeps out whole shards; give a share that leaves some on both sides, or 0"
        )
    order = permutation(shards, _HELD_OUT)
    trained = shards - kept_out
    return np.concatenate([np.sort(order[:trained]), np.sort(order[trained:])]), trained


def _fingerprint(
    config: ReadingConfig, places: Sequence[Place], counts: Counts, info: DatasetInfo | None
) -> str:
    names = [name_of(place) for place in places]
    known = packed_fingerprint(info, names, channels=config.channels, size=config.size)
    if known is not None:
        return known
    shards = [[label_of(place), int(count)] for place, count in zip(places, counts, strict=True)]
    identity = ["streamed", info and info.fingerprint, shards, config.channels, config.size]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _secret_in(options: JsonValue) -> str | None:
    """The name of an option that is a credential, at any depth."""
    if not isinstance(options, dict):
        return None
    for name, value in options.items():
        if name.lower() in _SECRETS:
            return name
        if (found := _secret_in(value)) is not None:
            return found
    return None
