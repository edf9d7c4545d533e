"""Images from an `.npz` or `.npy`: arrays of pixels, streamed from the file without unpickling."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data.decode import check_array_shape, fit_image
from data.errors import DataError, cause, printable
from data.npy import PIXEL_TYPES, read_npy_header, to_chw, to_uint8
from data.rows import iter_rows, read_exactly
from data.sources import (
    MAX_LABELS,
    About,
    SourceImage,
    class_names,
    file_sha256,
    read_about,
)

_MAX_NAMED = 8
_LAYOUTS = (
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")},
    {
        "train": ("train_images", "train_labels"),
        "val": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
    {"train": ("images", "labels")},
)


def shape_of_images(file: IO[bytes], size: int, where: str) -> tuple[int, ...]:
    """Read the header of a `.npy` of images and return its shape, [N, ...].

    Args:
        size: of the whole file, in bytes.
        where: what to call it in messages.
    Raises:
        DataError: it holds something else.
    """
    try:
        shape, fortran_order, dtype = read_npy_header(file)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if dtype not in PIXEL_TYPES:
        raise DataError(
            f"{where} is {dtype}; images are uint8, from 0 to 255, or uint16, whose upper 8 bits "
            "are kept"
        )
    if fortran_order:
        raise DataError(f"{where} is in Fortran order; save np.ascontiguousarray(images)")
    if len(shape) < 3 or math.prod(shape) == 0:
        raise DataError(f"{where} has shape {list(shape)}; images are [N, H, W] or [N, H, W, C]")
    try:
        check_array_shape(shape[1:])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if (rest := size - file.tell()) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{where} has shape {list(shape)}, but {rest} bytes of pixels")
    return shape


def images_of_array(file: IO[bytes], *, size: int | None) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the images of a `.npy` that `shape_of_images` has found good, uint8 [C, H, W]."""
    shape, _, dtype = read_npy_header(file)
    for pixels in iter_rows(file, shape, dtype):
        yield fit_image(to_chw(to_uint8(pixels)), size=size)


class NpySource:
    """An `.npy`: images without labels, as an array like those of an `.npz`, the split `train`."""

    classes: list[str] | None = None

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        about = read_about(path.parent)
        self._path, self._size = path, size
        self.digest = file_sha256(path)
        self.name = about.name or path.stem
        self.source = about.source or path.name
        self.licence = about.licence
        with path.open("rb") as file:
            shape = shape_of_images(file, path.stat().st_size, str(path))
        self.counts = {"train": shape[0]}

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream the array in its order."""
        with self._path.open("rb") as file:
            for row, image in enumerate(images_of_array(file, size=self._size)):
                yield SourceImage(f"{self._path}[{row}]", str(row), None, image)


class NpzSource:
    """`x_train, y_train, x_test, y_test`, MedMNIST's arrays, or `images` with optional `labels`.

    MedMNIST's are `train_images, train_labels` and so on, of which `val_…` are the split `val`.
    Images are uint8 or uint16, whose upper 8 bits are kept, [N, H, W], [N, H, W, C] or
    [N, C, H, W]; labels are integers [N] or [N, 1].
    Labels and all but the training arrays may be left out. Class names, licence and source come
    from an `about.json` beside the file, if any.
    """

    def __init__(self, path: Path, *, size: int | None = None, about: About | None = None) -> None:
        about = about or read_about(path.parent)
        self._path = path
        self._size = size
        self.digest = file_sha256(path)
        self.name = about.name or path.stem
        self.source = about.source or path.name
        self.licence = about.licence
        try:
            with zipfile.ZipFile(path) as archive:
                names = {n[:-4] for n in archive.namelist() if n.endswith(".npy")}
                self._arrays = self._choose_layout(names)
                self.counts = {
                    split: self._image_shape(archive, images)[0]
                    for split, (images, _) in self._arrays.items()
                }
                self._labels = {
                    split: self._read_labels(archive, labels, self.counts[split])
                    for split, (_, labels) in self._arrays.items()
                    if labels is not None
                }
        except DataError:
            raise
        except Exception as error:  # a damaged archive fails in as many ways as a damaged image
            raise DataError(f"{path}: cannot be read as .npz: {cause(error)}") from error
        self.classes = class_names(self._labels, about, str(path))

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream a split in the array's order."""
        name, _ = self._arrays[split]
        labels = self._labels.get(split)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
                for row, image in enumerate(images_of_array(file, size=self._size)):
                    yield SourceImage(
                        origin=f"{self._path}: {name}[{row}]",
                        name=f"{name} {row}",
                        label=None if labels is None else int(labels[row]),
                        image=image,
                    )
        except DataError:
            raise
        except Exception as error:  # as above
            raise DataError(f"{self._path}: {name} cannot be read: {cause(error)}") from error

    def _choose_layout(self, names: set[str]) -> dict[str, tuple[str, str | None]]:
        for layout in _LAYOUTS:
            images, _ = layout["train"]
            if images in names:
                return {
                    split: (x, y if y in names else None)
                    for split, (x, y) in layout.items()
                    if x in names
                }
        held = ", ".join(printable(name) for name in sorted(names)[:_MAX_NAMED])
        raise DataError(
            f"{self._path}: holds {held or 'no arrays'}; "
            "needed are x_train, y_train, x_test, y_test, or train_images, train_labels and so on, "
            "or images with optional labels"
        )

    def _header(self, file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            return read_npy_header(file)
        except DataError as error:
            raise DataError(f"{self._path}: {name}: {error}") from error

    def _image_shape(self, archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
        size = archive.getinfo(f"{name}.npy").file_size
        with archive.open(f"{name}.npy") as file:
            return shape_of_images(file, size, f"{self._path}: {name}")

    def _read_labels(
        self, archive: zipfile.ZipFile, name: str, count: int
    ) -> npt.NDArray[np.int64]:
        with archive.open(f"{name}.npy") as file:
            shape, _, dtype = self._header(file, name)
            where = f"{self._path}: {name}"
            if dtype.kind not in "iu":
                raise DataError(f"{where} is {dtype}; labels are integers")
            if len(shape) == 2 and shape[0] == count and shape[1] > 1:
                raise DataError(
                    f"{where} has shape {list(shape)}, several labels of an image; save the images "
                    "alone, pack them, and give these labels by key in a CSV file (docs/heads.md)"
                )
            if shape not in ((count,), (count, 1)):
                raise DataError(f"{where} has shape {list(shape)}; {count} images need [{count}]")
            if count > MAX_LABELS:
                raise DataError(f"{where} has {count} labels; up to {MAX_LABELS} are read")
            values = np.frombuffer(read_exactly(file, count * dtype.itemsize), dtype)
        if values.min() < 0 or values.max() > 10**9:
            raise DataError(f"{where} holds {values.min()} to {values.max()}; classes count from 0")
        return values.astype(np.int64)
