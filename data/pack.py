"""Packing a source of images into a folder of shards with its `dataset.json`.

The folder appears all at once, see `data.whole_folder`.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from data.dataset import (
    DATASET_FILE,
    ContentHash,
    DatasetInfo,
    read_dataset_info,
    write_dataset_info,
)
from data.errors import DataError
from data.shard_writer import ShardWriter, encode_png
from data.source_choice import open_source
from data.sources import Source, UnreadableImage, file_sha256
from data.tar import ends_whole
from data.whole_folder import hidden_folder, publish

Encode = Literal["png", "keep"]
OnBad = Literal["fatal", "skip"]
_RECIPE_VERSION = 1
_STORE_FOLDER = ".underlayer"  # decoded images, kept beside the shards by the resident store


@dataclass(frozen=True, slots=True)
class PackResult:
    """What `pack` left in `folder`; `reused` if it was there already."""

    folder: Path
    info: DatasetInfo
    reused: bool
    left_out: list[UnreadableImage]


def pack(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    encode: Encode = "png",
    shard_size: int = 1000,
    overwrite: bool = False,
    on_bad: OnBad = "fatal",
    max_bad_share: float = 0.01,
    on_start: Callable[[Source], None] = lambda source: None,
    on_image: Callable[[], None] = lambda: None,
) -> PackResult:
    """Pack `source` into shards in the folder `out`.

    The same images with the same options give the same bytes. Where `out` holds exactly them
    already, nothing is written.

    Args:
        source: a bundled set's name, an `.npz`, a folder of IDX files or a folder of images.
        size: height and width in pixels; the short side is scaled to it and the middle cropped.
        encode: `png`, or `keep` for the bytes of the original files.
        shard_size: samples in a shard.
        overwrite: replace another packed set that is in `out`.
        on_bad: what an image that does not decode does: stop (`fatal`) or be left out (`skip`).
        max_bad_share: with `skip`, the largest share of images, from 0 to 1, that may be left out.
        on_start, on_image: called when packing begins and after each image, to show progress.
    Raises:
        DataError: the source or `out` cannot be used, or images do not decode or fit together.
    """
    out = Path(out)
    _check_options(size, encode, shard_size, on_bad, max_bad_share)
    _check_out(out, overwrite)
    opened = open_source(str(source), size=size)
    recipe = _recipe(opened, size, encode, shard_size)
    if (info := _find_same(out, recipe, overwrite)) is not None:
        return PackResult(out, info, reused=True, left_out=[])
    with hidden_folder(out) as hidden:
        if (info := _find_same(out, recipe, overwrite)) is not None:  # written while we waited
            return PackResult(out, info, reused=True, left_out=[])
        on_start(opened)
        info, left_out = _write_set(opened, hidden, recipe, encode, shard_size, on_bad, on_image)
        _check_share(left_out, opened, max_bad_share)
        write_dataset_info(hidden, info)
        publish(hidden, out)
    return PackResult(out, info, reused=False, left_out=left_out)


def _write_set(
    source: Source,
    folder: Path,
    recipe: str,
    encode: Encode,
    shard_size: int,
    on_bad: OnBad,
    on_image: Callable[[], None],
) -> tuple[DatasetInfo, list[UnreadableImage]]:
    left_out: list[UnreadableImage] = []
    content = ContentHash()
    shape: tuple[int, ...] | None = None
    labeled = True
    counts: dict[str, int] = {}
    shards: dict[str, list[str]] = {}
    for split in source.counts:
        written = 0
        with ShardWriter(folder, split, shard_size) as writer:
            for item in source.images(split):
                on_image()
                if isinstance(item, UnreadableImage):
                    if on_bad == "fatal":
                        raise DataError(f"{item}; remove the file or give --on-bad skip")
                    left_out.append(item)
                    continue
                shape = shape or item.image.shape
                if item.image.shape != shape:
                    raise DataError(
                        f"{item.origin}: [channels, height, width] {list(item.image.shape)}, "
                        f"others have {list(shape)}; --size N makes all N x N"
                    )
                if encode == "keep" and item.original is None:
                    raise DataError(
                        f"{item.origin} cannot be kept as it is: it is no PNG, JPEG or WebP file, "
                        "or grey among colour images; give --encode png"
                    )
                key = f"{split}-{written:07d}"
                if encode == "keep" and item.original is not None:
                    writer.add(key, item.suffix, item.original, item.label)
                else:
                    writer.add(key, "png", encode_png(item.image), item.label)
                content.add(split, key, item.label, item.image)
                labeled = labeled and item.label is not None
                written += 1
        counts[split], shards[split] = written, writer.names
    if shape is None:
        raise DataError(f"{source.name}: none of its images decodes, the first: {left_out[0]}")
    info = DatasetInfo(
        name=source.name,
        source=source.source,
        licence=source.licence,
        labeled=labeled,
        classes=source.classes,
        image_shape=(shape[0], shape[1], shape[2]),
        counts=counts,
        shards=shards,
        fingerprint=content.hexdigest(),
        recipe=recipe,
        sha256={name: file_sha256(folder / name) for names in shards.values() for name in names},
    )
    return info, left_out


def _check_options(
    size: int | None, encode: str, shard_size: int, on_bad: str, max_bad_share: float
) -> None:
    if size is not None and size < 1:
        raise DataError(f"size: {size}; give a number of pixels from 1")
    if encode not in get_args(Encode):
        raise DataError(f"encode: {encode}; one of {', '.join(get_args(Encode))}")
    if encode == "keep" and size is not None:
        raise DataError("encode: keep leaves files as they are, so they cannot be scaled to a size")
    if shard_size < 1:
        raise DataError(f"shard size: {shard_size}; give a number of samples from 1")
    if on_bad not in get_args(OnBad):
        raise DataError(f"on bad: {on_bad}; one of {', '.join(get_args(OnBad))}")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"max bad share: {max_bad_share}; give a share from 0 to 1")


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse an `out` in which there is anything that `pack` did not write."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out}: a file, not a folder; give another --out")
    names = sorted(path.name for path in out.iterdir())
    foreign = [
        n for n in names if n not in (DATASET_FILE, _STORE_FOLDER) and not n.endswith(".tar")
    ]
    if foreign:
        raise DataError(f"{out}: holds {foreign[0]}, which is no part of a set; give another --out")
    if names and DATASET_FILE not in names and not overwrite:
        raise DataError(
            f"{out}: holds {names[0]} but no {DATASET_FILE}; give --overwrite or another --out"
        )


def _find_same(out: Path, recipe: str, overwrite: bool) -> DatasetInfo | None:
    """The set in `out` if it is the one to be packed; None if there is none, or it may go."""
    info = read_dataset_info(out)
    if info is None:
        return None
    same = info.recipe == recipe
    if same and all(ends_whole(out / name) for names in info.shards.values() for name in names):
        return info
    if overwrite:
        return None
    images = " + ".join(f"{count:,} {split}" for split, count in info.counts.items())
    what = "a damaged copy of this set" if same else "another set or packing"
    raise DataError(
        f"{out} holds {what} ({info.name}, {images} images); give --overwrite or another --out"
    )


def _check_share(left_out: list[UnreadableImage], source: Source, max_bad_share: float) -> None:
    total = sum(source.counts.values())
    if len(left_out) > max_bad_share * total:
        raise DataError(
            f"{len(left_out)} of {total} images do not decode, more than the share of "
            f"{max_bad_share:g} that may be left out; the first: {left_out[0]}"
        )


def _recipe(source: Source, size: int | None, encode: str, shard_size: int) -> str:
    parts = {
        "version": _RECIPE_VERSION,
        "content": source.digest,
        "name": source.name,
        "source": source.source,
        "licence": source.licence,
        "classes": source.classes,
        "size": size,
        "encode": encode,
        "shard_size": shard_size,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
