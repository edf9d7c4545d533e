"""The resident store: all images of some shards, decoded once, as one memory-mapped tensor."""

import errno
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from data.dataset import DatasetInfo, read_dataset_info
from data.errors import DataError
from data.npy import channels_in_words
from data.shard_hashes import hash_shards
from data.shards import BadSample, expand_shards
from data.store_build import (
    IMAGES_FILE,
    KEYS_FILE,
    LABELS_FILE,
    RECORD_FILE,
    STORE_FORMAT,
    StoreRecord,
    build_store,
)

_FOLDER = ".underlayer"


@dataclass(frozen=True)
class ResidentStore:
    """Decoded images with their labels and keys, in the order of the shards."""

    images: Tensor
    """uint8 [N, C, H, W], mapped from a file: to be read only, a write ends the process."""
    labels: Tensor | None
    """int64 [N]; None if any label is missing."""
    labels_missing: int
    fingerprint: str
    """SHA-256 of keys, labels and pixels, in hex: equal data have equal fingerprints."""
    info: DatasetInfo | None
    """The `dataset.json` beside the shards, if it lists them."""
    bad: list[BadSample]
    """Samples that were left out."""
    folder: Path
    """Where the decoded images are kept."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> list[str] | None:
        """Class names by label, where known."""
        return self.info.classes if self.info is not None else None

    @cached_property
    def keys(self) -> list[str]:
        """The key of each sample."""
        return (self.folder / KEYS_FILE).read_text("utf-8").split("\n")[:-1]


class ReadingConfig(BaseModel):
    """How the images of shards are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_bad: Literal["fatal", "skip"] = Field(
        "fatal", description="what a sample that cannot be read does: end the run, or be left out"
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="largest share of bad samples that `skip` puts up with"
    )
    channels: int | None = Field(
        None,
        ge=1,
        description="1 for grey, 3 for colour, or the number that images have; null: that",
    )
    size: int | None = Field(
        None, ge=1, description="side in pixels to scale and crop to; null: as dataset.json says"
    )

    def open(self, shards: str | Sequence[str]) -> ResidentStore:
        """Open the store of `shards`; see `open_store`."""
        return open_store(
            shards,
            on_bad=self.on_bad,
            max_bad_share=self.max_bad_share,
            channels=self.channels,
            size=self.size,
        )


def open_store(
    shards: str | Sequence[str],
    *,
    on_bad: Literal["fatal", "skip"] = "fatal",
    max_bad_share: float = 0.01,
    channels: int | None = None,
    size: int | None = None,
) -> ResidentStore:
    """The images of `shards`, decoded now if they were not before.

    The decoded images are kept in `.underlayer` beside the first shard, or where nothing can be
    written there in `$XDG_CACHE_HOME/underlayer` (`~/.cache/underlayer`), by the content of the
    shards and by `channels` and `size`: moved or copied shards are recognized, changed ones are
    decoded anew.

    Args:
        shards: paths or patterns, as for `expand_shards`.
        on_bad: "fatal" ends at bad samples; "skip" leaves them out with a warning on stderr.
        max_bad_share: largest share of samples that may be left out, in [0, 1].
        channels: 1 or 3: convert to grey or colour; None keeps what the images have, which other
            numbers have to be.
        size: scale and crop to a square of this many pixels; None keeps the images' size.
    Raises:
        DataError: no such shards, a shard without images, bad samples (the first is named),
            images of different shapes, a label without a class, or no place to write.
    """
    if channels is not None and channels < 1:
        raise DataError(f"data.channels must be 1 or more, got {channels}")
    if size is not None and size < 1:
        raise DataError(f"data.size must be 1 or more, got {size}")
    paths = expand_shards(shards)
    info = dataset_of(paths)
    if info is not None:
        _check_channels(channels, info.image_shape[0])
    folder = _find_or_build(paths, channels, size, _count(paths, info))
    store = _open(folder, paths, info)
    _check_labels(store, paths)
    if store.bad:
        total = len(store) + len(store.bad)
        said = bad_samples_in_words(store.bad, total, on_bad, max_bad_share)
        print(f"warning: {said}", file=sys.stderr)
    return store


def _check_channels(wanted: int | None, found: int) -> None:
    if wanted in (None, found) or {wanted, found} == {1, 3}:
        return
    raise DataError(
        f"data.channels must be {'1 or 3' if found in (1, 3) else found} for images in "
        f"{channels_in_words(found)}, got {wanted}"
    )


def expected_count(shards: Sequence[Path]) -> int | None:
    """How many images `dataset.json` says that the shards hold, if they are whole splits."""
    return _count(shards, dataset_of(shards))


def dataset_of(shards: Sequence[Path]) -> DatasetInfo | None:
    """Return the `dataset.json` beside shards, if it lists them all."""
    folders = {shard.parent for shard in shards}
    if len(folders) != 1:
        return None
    info = read_dataset_info(folders.pop())
    if info is None:
        return None
    listed = {name for names in info.shards.values() for name in names}
    return info if all(shard.name in listed for shard in shards) else None


def _count(shards: Sequence[Path], info: DatasetInfo | None) -> int | None:
    if info is None:
        return None
    names = {shard.name for shard in shards}
    splits = [split for split, listed in info.shards.items() if names & set(listed)]
    whole = len(names) == sum(len(info.shards[split]) for split in splits)
    return sum(info.counts[split] for split in splits) if whole else None


def _find_or_build(
    shards: Sequence[Path], channels: int | None, size: int | None, expected: int | None
) -> Path:
    places, memory = _places(shards), memory_of(shards)
    contents = hash_shards(shards, memory)
    identity = json.dumps([STORE_FORMAT, contents, channels, size])
    name = hashlib.sha256(identity.encode()).hexdigest()[:32]
    for place in places:
        if _record(place / name) is not None:
            return place / name
    folder = memory / name
    shutil.rmtree(folder, ignore_errors=True)  # whatever is there is damaged
    build_store(shards, folder, channels=channels, size=size, expected=expected)
    return folder


def memory_of(shards: Sequence[Path]) -> Path:
    """Return the folder where what is known of some shards is kept.

    Raises:
        DataError: nothing can be written in any place for it.
    """
    places = _places(shards)
    writable = next((place for place in places if _is_writable(place)), None)
    if writable is None:
        raise DataError(
            f"what is read of shards can be kept neither in {places[0]} nor in {places[1]}: "
            "make one of them writable, or set XDG_CACHE_HOME to a folder that is"
        )
    return writable


def _places(shards: Sequence[Path]) -> list[Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [shards[0].parent / _FOLDER, Path(cache) / "underlayer"]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileExistsError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        raise
    return os.access(folder, os.W_OK | os.X_OK)


def _record(folder: Path) -> StoreRecord | None:
    """The record of a whole store; None where there is none, or one that was damaged."""
    try:
        record = StoreRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
        sizes = [(folder / name).stat().st_size for name in (IMAGES_FILE, LABELS_FILE)]
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    num_images, *image_shape = record.shape
    whole = sizes == [num_images * int(np.prod(image_shape)), num_images * 8]
    return record if whole and (folder / KEYS_FILE).is_file() else None


def _open(folder: Path, shards: Sequence[Path], info: DatasetInfo | None) -> ResidentStore:
    record = _record(folder)
    assert record is not None
    images = np.memmap(folder / IMAGES_FILE, np.uint8, mode="r", shape=record.shape)
    with warnings.catch_warnings():
        # Torch has no read-only tensors; this one is documented as such.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images_tensor = torch.from_numpy(images)
    labels = None
    if record.labels_missing == 0:
        labels = torch.from_numpy(np.fromfile(folder / LABELS_FILE, "<i8").astype(np.int64))
    return ResidentStore(
        images=images_tensor,
        labels=labels,
        labels_missing=record.labels_missing,
        fingerprint=record.fingerprint,
        info=info,
        bad=[BadSample(shards[b.shard], b.offset, b.key, b.reason) for b in record.bad],
        folder=folder,
    )


def _check_labels(store: ResidentStore, shards: Sequence[Path]) -> None:
    if store.labels is None or store.classes is None:
        return
    largest = int(store.labels.max())
    if largest >= len(store.classes):
        first = int((store.labels == largest).nonzero()[0])
        raise DataError(
            f"{shards[0].parent}: sample {store.keys[first]} has label {largest}, dataset.json "
            f"names {len(store.classes)} classes (labels 0 to {len(store.classes) - 1}): "
            "pack the set again with `python -m data pack`"
        )


def bad_samples_in_words(
    bad: Sequence[BadSample], total: int, on_bad: str, max_bad_share: float
) -> str:
    """Return what there is to say of bad samples that are left out, one or more of so many.

    Raises:
        DataError: they may not be left out, or are too many.
    """
    found = f"{len(bad)} of {total} samples cannot be used, the first: {bad[0]}"
    verify = f"`python -m data verify '{bad[0].shard.parent}/*.tar'` lists all"
    if on_bad == "fatal":
        raise DataError(f"{found}; data.on_bad=skip leaves them out, {verify}")
    share = len(bad) / total
    if share > max_bad_share:
        raise DataError(
            f"{found}; that is a share of {share:.3g}, above data.max_bad_share={max_bad_share}; "
            f"{verify}"
        )
    return f"{found}; left out; {verify}"
