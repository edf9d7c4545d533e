"""Building a resident store: every image of some shards decoded into one flat file.

A store is a folder: `images.u8` (uint8 [N, C, H, W], raw), `labels.i64` (little-endian int64 [N],
-1 where there is none), `keys.txt` (one key a line) and `store.json` (`StoreRecord`). It is built
under a temporary name and renamed, so that a store is either whole or not there.
"""

import array
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from data.dataset import ContentHash
from data.decode import decode_image
from data.decode_ahead import Image, decode_ahead
from data.errors import DataError
from data.progress import Progress
from data.shards import IMAGE_SUFFIXES, BadSample, Sample, iter_samples

IMAGES_FILE, LABELS_FILE, KEYS_FILE, RECORD_FILE = (
    "images.u8",
    "labels.i64",
    "keys.txt",
    "store.json",
)
STORE_FORMAT = 2
NO_LABEL = -1
_LEFTOVER_SECONDS = 24 * 3600

Shape = tuple[int, int, int]


class BadRecord(BaseModel):
    """A bad sample; `shard` is the place of its shard in the list of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    offset: int
    key: str
    reason: str


class StoreRecord(BaseModel):
    """`store.json`: what a store holds. It is written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[2]
    shape: tuple[int, int, int, int]
    fingerprint: str
    """ContentHash of the keys, labels and pixels in order."""
    labels_missing: int
    largest_label: int
    bad: list[BadRecord]


def build_store(
    shards: Sequence[Path],
    folder: Path,
    *,
    channels: int | None,
    size: int | None,
    expected: int | None,
) -> None:
    """Decode all images of `shards` into the store `folder`, in bounded memory.

    Bad samples are left out and recorded. If another process finishes the same store first, its
    work is kept. `expected` is the number of images, where known, to tell how long it takes.

    Raises:
        DataError: a shard without images, no image that decodes, or images of different shapes.
    """
    _remove_leftovers(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(temporary, shards, channels, size, expected)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / RECORD_FILE).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(parent: Path) -> None:
    """Delete what killed builds have left behind."""
    for leftover in parent.glob(".*.*"):
        with contextlib.suppress(FileNotFoundError):  # another build may just have finished
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _fill(
    folder: Path,
    shards: Sequence[Path],
    channels: int | None,
    size: int | None,
    expected: int | None,
) -> None:
    content = ContentHash()
    labels = array.array("q")
    bad: list[BadRecord] = []
    place = {shard: number for number, shard in enumerate(shards)}
    shape: Shape | None = None
    with (
        (folder / IMAGES_FILE).open("wb", buffering=2**20) as images_file,
        (folder / KEYS_FILE).open("w", encoding="utf-8", newline="\n") as keys_file,
        Progress("decoding images, once", expected) as progress,
    ):
        for sample, image in decode_all(shards, channels, size):
            progress.step()
            if isinstance(sample, BadSample) or isinstance(image, str):
                reason = sample.reason if isinstance(sample, BadSample) else str(image)
                bad.append(
                    BadRecord(
                        shard=place[sample.shard],
                        offset=sample.offset,
                        key=sample.key,
                        reason=reason,
                    )
                )
                continue
            assert image is not None
            shape = shape or _shape(image)
            _check_shape(sample, _shape(image), shape, channels, size)
            content.add("", sample.key, sample.label, image)
            images_file.write(np.ascontiguousarray(image).data)
            keys_file.write(sample.key + "\n")
            labels.append(NO_LABEL if sample.label is None else sample.label)
    if shape is None:
        first = bad[0]
        where = BadSample(shards[first.shard], first.offset, first.key, first.reason)
        raise DataError(f"none of the {len(bad)} samples can be used, the first: {where}")
    label_values = np.array(labels, "<i8")
    label_values.tofile(folder / LABELS_FILE)
    record = StoreRecord(
        format_version=STORE_FORMAT,
        shape=(len(labels), *shape),
        fingerprint=content.hexdigest(),
        labels_missing=int((label_values == NO_LABEL).sum()),
        largest_label=int(label_values.max()),
        bad=bad,
    )
    (folder / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n", "utf-8")


def _shape(image: Image) -> Shape:
    channels, height, width = image.shape
    return channels, height, width


def _check_shape(
    sample: Sample, found: Shape, first: Shape, channels: int | None, size: int | None
) -> None:
    if found == first:
        return
    remedies = [
        name
        for name, given, differs in (
            ("data.channels", channels, found[0] != first[0]),
            ("data.size", size, found[1:] != first[1:]),
        )
        if given is None and differs
    ]
    as_text = ("x".join(map(str, shape)) for shape in (found, first))
    raise DataError(
        f"{sample.shard} offset {sample.offset} key {sample.key}: image of "
        f"{next(as_text)} (channels x height x width) among images of {next(as_text)}: "
        f"set {' and '.join(remedies)} to bring all to one shape"
    )


def _samples(shards: Sequence[Path]) -> Iterator[Sample | BadSample]:
    for shard in shards:
        empty = True
        for sample in iter_samples(shard):
            empty = False
            yield sample
        if empty:
            raise DataError(
                f"{shard}: holds no images; an image is a member that ends in "
                f".{' .'.join(IMAGE_SUFFIXES)}"
            )


def decode_all(
    shards: Sequence[Path], channels: int | None, size: int | None
) -> Iterator[tuple[Sample | BadSample, Image | str | None]]:
    """Decode all samples of `shards`, in order, by `decode_ahead`.

    Yields:
        Each sample with its image, uint8 [C, H, W], or with the reason why there is none, which
        is None where the sample itself is bad.
    Raises:
        DataError: a shard that cannot be opened, or without images.
    """

    def decode(sample: Sample | BadSample, max_pixels: int) -> Image | None:
        if isinstance(sample, BadSample):
            return None
        return decode_image(
            sample.image, sample.suffix, channels=channels, size=size, max_pixels=max_pixels
        )

    def encoded_bytes(sample: Sample | BadSample) -> int:
        return len(sample.image) if isinstance(sample, Sample) else 0

    return decode_ahead(_samples(shards), decode, encoded_bytes, one_size=size is not None)
