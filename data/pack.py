"""Packing a source of images into a folder of shards with its `dataset.json`.

The folder appears all at once, see `data.whole_folder`. A killed run's finished shards are used by
the next, if it packs the same.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from data.class_subset import subset_of
from data.dataset import DATASET_FILE, DatasetInfo, read_dataset_info, write_dataset_info
from data.encode import Encoding, Form
from data.errors import DataError
from data.label_file import read_label_file
from data.set_writer import OnBad, WriteOptions, write_set
from data.shard_size import parse_shard_size
from data.source_choice import open_source
from data.sources import Source, UnreadableImage
from data.tar import ends_whole
from data.whole_folder import hidden_folder, publish

Encode = Literal["png", "keep", "jpeg", "webp"]
_QUALITY = 90
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
    labels: str | Path | None = None,
    classes: Sequence[str] | None = None,
    encode: Encode = "png",
    quality: int | None = None,
    shard_size: int | str = 1000,
    test_share: float | None = None,
    group_copies: bool = False,
    workers: int = 1,
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
        source: a bundled set's name, or a file or folder of a kind in `docs/data.md`.
        size: height and width in pixels; the short side is scaled to it and the middle cropped.
        labels: a CSV file with the columns key,label for a folder of images or an archive of one.
        classes: names or numbers of those to pack, renumbered from 0 in their order; None: all.
        encode: `png`, `jpeg` or `webp`, or `keep` for the bytes of the original files.
        quality: of `jpeg` and `webp`, 1 to 100; None: 90.
        shard_size: samples in a shard, or the most bytes of one, such as `256MB`.
        test_share: this share of the images, chosen by their names, becomes the split `test`.
        group_copies: with a `test_share`, exact and near copies of one another are all on one side.
        workers: processes that encode; their number does not change the bytes.
        overwrite: replace another packed set that is in `out`.
        on_bad: what an image that does not decode does: stop (`fatal`) or be left out (`skip`).
        max_bad_share: with `skip`, the largest share of images, from 0 to 1, that may be left out.
        on_start, on_image: called when packing begins and after each image, to show progress.
    Raises:
        DataError: the source or `out` cannot be used, or images do not decode or fit together.
    """
    out = Path(out)
    options = _options(
        size,
        encode,
        quality,
        shard_size,
        test_share,
        group_copies,
        workers,
        on_bad,
        max_bad_share,
    )
    _check_out(out, overwrite)
    label_file = None if labels is None else read_label_file(labels)
    opened = open_source(str(source), size=size, labels=label_file)
    if classes is not None:
        opened = subset_of(opened, classes)
    if test_share is not None and ("test" in opened.counts or "train" not in opened.counts):
        raise DataError(
            f"test share: {source} is divided already, into {', '.join(opened.counts)}; "
            "leave it out"
        )
    recipe = _recipe(opened, size, options)
    if (info := _find_same(out, recipe, overwrite)) is not None:
        return PackResult(out, info, reused=True, left_out=[])
    with hidden_folder(out, keep=True) as hidden:
        if (info := _find_same(out, recipe, overwrite)) is not None:  # written while we waited
            return PackResult(out, info, reused=True, left_out=[])
        on_start(opened)
        info, left_out = write_set(opened, hidden, recipe, options, on_image)
        _check_share(left_out, opened, max_bad_share)
        write_dataset_info(hidden, info)
        publish(hidden, out)
    return PackResult(out, info, reused=False, left_out=left_out)


def _options(
    size: int | None,
    encode: str,
    quality: int | None,
    shard_size: int | str,
    test_share: float | None,
    group_copies: bool,
    workers: int,
    on_bad: OnBad,
    max_bad_share: float,
) -> WriteOptions:
    if size is not None and size < 1:
        raise DataError(f"size: {size}; give a number of pixels from 1")
    if encode not in get_args(Encode):
        raise DataError(f"encode: {encode}; one of {', '.join(get_args(Encode))}")
    if encode == "keep" and size is not None:
        raise DataError("encode: keep leaves files as they are, so they cannot be scaled to a size")
    if quality is not None and encode not in ("jpeg", "webp"):
        raise DataError(f"quality: {encode} has none; leave it out, or give --encode jpeg or webp")
    if quality is not None and not 1 <= quality <= 100:
        raise DataError(f"quality: {quality}; give one from 1 to 100")
    if test_share is not None and not 0 < test_share < 1:
        raise DataError(f"test share: {test_share:g}; give a share between 0 and 1, such as 0.1")
    if group_copies and test_share is None:
        raise DataError("group copies: nothing is divided; give --test-share, or leave it out")
    if workers < 1:
        raise DataError(f"workers: {workers}; give a number of processes from 1")
    if workers > 1 and encode == "keep":
        raise DataError("workers: keep encodes nothing; leave them out")
    if on_bad not in get_args(OnBad):
        raise DataError(f"on bad: {on_bad}; one of {', '.join(get_args(OnBad))}")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"max bad share: {max_bad_share}; give a share from 0 to 1")
    return WriteOptions(
        encoding=None if encode == "keep" else Encoding(cast(Form, encode), quality or _QUALITY),
        shard_size=parse_shard_size(shard_size),
        test_share=test_share,
        group_copies=group_copies,
        on_bad=on_bad,
        workers=workers,
    )


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


def _recipe(source: Source, size: int | None, options: WriteOptions) -> str:
    encoding, shard_size = options.encoding, options.shard_size
    parts = {
        "version": _RECIPE_VERSION,
        "content": source.digest,
        "name": source.name,
        "source": source.source,
        "licence": source.licence,
        "classes": source.classes,
        "size": size,
        "encode": "keep" if encoding is None else encoding.form,
        "shard_size": shard_size.samples or f"{shard_size.bytes} bytes",
    }
    if encoding is not None and encoding.form != "png":
        parts["quality"] = encoding.quality
    if options.test_share is not None:
        parts["test_share"] = options.test_share
    if options.group_copies:
        parts["group_copies"] = True
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
