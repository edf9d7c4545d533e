"""SVHN's cropped digits as their authors give them: `.mat` files of 32 x 32 pixels."""

import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decode import fit_image
from data.errors import DataError, cause
from data.mat_file import MatArray, iter_mat_arrays
from data.rows import iter_rows, read_exactly
from data.sources import SourceImage, class_names, file_sha256, read_about

_HWC = (32, 32, 3)
_SPLITS = ("train", "test", "extra")
_MAX_LABELS = 2**22  # the largest file has 531,131
_ZERO = 10  # the class of the digit 0


def is_svhn_folder(folder: Path) -> bool:
    """Whether `folder` holds `train_32x32.mat` or `extra_32x32.mat`."""
    return any(_file(folder, split).is_file() for split in ("train", "extra"))


class SvhnSource:
    """`train_32x32.mat`, `test_32x32.mat` and `extra_32x32.mat`; any of them may be left out.

    Each holds `X`, uint8 [32, 32, 3, N], and `y`, [N, 1] from 1 to 10, of which 10 is the digit 0:
    here classes are the digits themselves.
    """

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        about = read_about(folder)
        self._size = size
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"SVHN files of {self.name}"
        self.licence = about.licence
        self.counts: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._labels: dict[str, npt.NDArray[np.int64]] = {}
        content = hashlib.sha256()
        for split in _SPLITS:
            path = _file(folder, split)
            if not path.is_file():
                continue
            self._paths[split] = path
            self._labels[split] = _read_labels(path)
            self.counts[split] = len(self._labels[split])
            content.update(f"{split} {file_sha256(path)}".encode())
        self.digest = content.hexdigest()
        digits = [str(digit) for digit in range(10)]
        self.classes = class_names(self._labels, about, str(folder), digits)

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream a split in the file's order."""
        path, labels = self._paths[split], self._labels[split]
        try:
            for array in iter_mat_arrays(path):
                if array.name != "X":
                    continue
                height, width, channels = _HWC
                rows = iter_rows(array.file, (len(labels), channels, width, height))
                for row, image in enumerate(rows):
                    upright = np.ascontiguousarray(image.transpose(0, 2, 1))
                    yield SourceImage(
                        origin=f"{path} image {row}",
                        name=f"{path.name} {row}",
                        label=int(labels[row]),
                        image=fit_image(upright, size=self._size),
                    )
        except (EOFError, zlib.error) as error:
            raise DataError(
                f"{path}: X cannot be read: {cause(error)}; get the file again"
            ) from error


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}_32x32.mat"


def _read_labels(path: Path) -> npt.NDArray[np.int64]:
    count: int | None = None
    values: npt.NDArray[np.float64] | None = None
    for array in iter_mat_arrays(path):
        if (array.name == "X" and count is not None) or (array.name == "y" and values is not None):
            raise DataError(f"{path}: has two arrays {array.name}; get the file again")
        if array.name == "X":
            count = _count(path, array)
        elif array.name == "y":
            values = _values(path, array)
    if count is None or values is None:
        raise DataError(f"{path}: has no array {'X' if count is None else 'y'}; get the file again")
    if len(values) != count:
        raise DataError(f"{path}: y has {len(values)} labels; X has {count} images")
    bad = np.flatnonzero(~np.isin(values, np.arange(1, _ZERO + 1)))
    if len(bad):
        raise DataError(f"{path}: y[{bad[0]}] is {values[bad[0]]:g}; labels are 1 to {_ZERO}")
    return values.astype(np.int64) % _ZERO


def _count(path: Path, array: MatArray) -> int:
    if array.dtype != np.uint8 or len(array.shape) != 4 or array.shape[:3] != _HWC:
        raise DataError(
            f"{path}: X is {array.dtype} {list(array.shape)}; SVHN's is uint8 [32, 32, 3, N]"
        )
    return array.shape[3]


def _values(path: Path, array: MatArray) -> npt.NDArray[np.float64]:
    if len(array.shape) != 2 or 1 not in array.shape or array.dtype.kind not in "iuf":
        raise DataError(f"{path}: y is {array.dtype} {list(array.shape)}; SVHN's is [N, 1]")
    count = math.prod(array.shape)
    if count > _MAX_LABELS:
        raise DataError(f"{path}: y claims {count} labels; up to {_MAX_LABELS} are read")
    try:
        data = read_exactly(array.file, count * array.dtype.itemsize)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: y cannot be read: {cause(error)}; get the file again") from error
    return np.frombuffer(data, array.dtype).astype(np.float64)
