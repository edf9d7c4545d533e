"""Images from a folder of IDX files, the format of MNIST and its relatives, plain or gzipped."""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from data.decode import check_array_shape, fit_image
from data.errors import DataError, cause
from data.npy import to_chw
from data.rows import iter_rows, read_exactly
from data.sources import MAX_LABELS, SourceImage, class_names, file_sha256, read_about

_PREFIXES = {"train": "train", "test": "t10k"}
_UBYTE = 0x08
_READ_ERRORS = (EOFError, zlib.error, OSError)


def is_idx_folder(folder: Path) -> bool:
    """Whether `folder` holds `train-images-idx3-ubyte`, gzipped or not."""
    return _find(folder, "train", "images", 3) is not None


class IdxSource:
    """`train-images-idx3-ubyte[.gz]`, optionally `train-labels-idx1-ubyte`, and `t10k-…` for test.

    Values are unsigned bytes. Class names, licence and source come from `about.json`, if any.
    """

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        about = read_about(folder)
        self._size = size
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"IDX files of {self.name}"
        self.licence = about.licence
        self.counts: dict[str, int] = {}
        self._images: dict[str, Path] = {}
        self._labels: dict[str, npt.NDArray[np.int64]] = {}
        content = hashlib.sha256()
        for split, prefix in _PREFIXES.items():
            images, labels = _find(folder, prefix, "images", 3), _find(folder, prefix, "labels", 1)
            if images is None:
                if labels is not None:
                    raise DataError(f"{labels}: there is no {prefix}-images-idx3-ubyte beside it")
                continue
            self._images[split] = images
            with _open(images) as file:
                shape = _read_header(file, images)
            if len(shape) < 3 or math.prod(shape) == 0:
                raise DataError(f"{images}: of shape {list(shape)}; images are [N, H, W]")
            try:
                check_array_shape(shape[1:])
            except DataError as error:
                raise DataError(f"{images}: {error}") from error
            _check_length(images, shape)
            self.counts[split] = shape[0]
            content.update(file_sha256(images).encode())
            if labels is not None:
                self._labels[split] = _read_labels(labels, shape[0])
                content.update(file_sha256(labels).encode())
        self.digest = content.hexdigest()
        self.classes = class_names(self._labels, about, str(folder))

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream a split in the file's order."""
        path, labels = self._images[split], self._labels.get(split)
        with _open(path) as file:
            shape = _read_header(file, path)
            try:
                for row, image in enumerate(iter_rows(file, shape)):
                    yield SourceImage(
                        origin=f"{path} image {row}",
                        name=f"{path.name} {row}",
                        label=None if labels is None else int(labels[row]),
                        image=fit_image(to_chw(image), size=self._size),
                    )
            except _READ_ERRORS as error:
                raise DataError(f"{path}: cannot be read: {cause(error)}") from error


def _find(folder: Path, prefix: str, what: str, dimensions: int) -> Path | None:
    for separator in "-.":
        for ending in ("", ".gz"):
            path = folder / f"{prefix}-{what}{separator}idx{dimensions}-ubyte{ending}"
            if path.is_file():
                return path
    return None


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _read_header(file: BinaryIO, path: Path) -> tuple[int, ...]:
    zero, kind, dimensions = struct.unpack(">HBB", _read_exactly(file, 4, path))
    if zero != 0 or kind != _UBYTE or not 1 <= dimensions <= 4:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    return struct.unpack(f">{dimensions}I", _read_exactly(file, 4 * dimensions, path))


def _check_length(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a plain file that is shorter than it claims, before anything is written."""
    missing = 4 + 4 * len(shape) + math.prod(shape) - path.stat().st_size
    if path.suffix != ".gz" and missing > 0:
        raise DataError(f"{path}: ends {missing} bytes early")


def _read_labels(path: Path, count: int) -> npt.NDArray[np.int64]:
    with _open(path) as file:
        shape = _read_header(file, path)
        if shape != (count,):
            raise DataError(f"{path}: of shape {list(shape)}; {count} images need [{count}]")
        if count > MAX_LABELS:
            raise DataError(f"{path}: {count} labels; up to {MAX_LABELS} are read")
        return np.frombuffer(_read_exactly(file, count, path), np.uint8).astype(np.int64)


def _read_exactly(file: BinaryIO, size: int, path: Path) -> bytes:
    try:
        return read_exactly(file, size)
    except _READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {cause(error)}") from error
