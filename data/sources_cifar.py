"""CIFAR-10 and CIFAR-100 as their authors give them: binary files, or pickles of Python 2."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.decode import fit_image
from data.errors import DataError
from data.pickle_values import PickledArray, read_pickled_dict
from data.rows import count_rows, iter_rows
from data.sources import SourceImage, class_names, file_sha256, read_about, read_class_names

_SHAPE = (3, 32, 32)
_PIXEL_BYTES = 3072
_MAX_BATCHES = 5


@dataclass(frozen=True, slots=True)
class _Batch:
    """A file of images: rows of `row_bytes` from `offset` on, a row's last 3072 being pixels."""

    path: Path
    offset: int
    row_bytes: int
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The names of one kind of folder; `{}` stands for the number of a batch.

    `label_bytes` of a binary file come before an image's pixels, and the last of them is its class;
    0 of them: the files are pickles, and `label_key` is the key of their classes.
    """

    train: str
    test: str
    names: str
    num_classes: int
    label_bytes: int = 0
    label_key: str = ""
    names_key: str = ""


_LAYOUTS = (
    _Layout("data_batch_{}.bin", "test_batch.bin", "batches.meta.txt", 10, label_bytes=1),
    _Layout("train.bin", "test.bin", "fine_label_names.txt", 100, label_bytes=2),
    _Layout(
        "data_batch_{}",
        "test_batch",
        "batches.meta",
        10,
        label_key="labels",
        names_key="label_names",
    ),
    _Layout("train", "test", "meta", 100, label_key="fine_labels", names_key="fine_label_names"),
)


def is_cifar_folder(folder: Path) -> bool:
    """Whether `folder` holds CIFAR's training images, in either of its forms."""
    return _layout_of(folder) is not None


class CifarSource:
    """`data_batch_1.bin` … and `test_batch.bin`, `train.bin` and `test.bin`, or these as pickles.

    Labels are the 10 classes of CIFAR-10 or the 100 fine ones of CIFAR-100. The pickles are not
    unpickled. Class names come from the file beside the images, else from `about.json`.
    """

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        layout = _layout_of(folder)
        assert layout is not None
        about = read_about(folder)
        self._size = size
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"CIFAR-{layout.num_classes} files of {self.name}"
        self.licence = about.licence
        read = _binary_batch if layout.label_bytes else _pickled_batch
        content = hashlib.sha256()
        self._batches: dict[str, list[_Batch]] = {}
        for split, paths in _paths(folder, layout).items():
            self._batches[split] = [read(path, layout) for path in paths]
            for path in paths:
                content.update(file_sha256(path).encode())
        self.digest = content.hexdigest()
        self.counts = {
            split: sum(len(batch.labels) for batch in batches)
            for split, batches in self._batches.items()
        }
        labels = {
            split: np.concatenate([batch.labels for batch in batches])
            for split, batches in self._batches.items()
        }
        names = _names(folder / layout.names, layout)
        self.classes = class_names(labels, about, str(folder), names, layout.names)

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream a split in the files' order."""
        for batch in self._batches[split]:
            with batch.path.open("rb") as file:
                file.seek(batch.offset)
                rows = iter_rows(file, (len(batch.labels), batch.row_bytes))
                try:
                    for number, row in enumerate(rows):
                        image = row[-_PIXEL_BYTES:].reshape(_SHAPE)
                        yield SourceImage(
                            origin=f"{batch.path} image {number}",
                            name=f"{batch.path.name} {number}",
                            label=int(batch.labels[number]),
                            image=fit_image(image, size=self._size),
                        )
                except EOFError as error:
                    raise DataError(f"{batch.path}: {error}") from error


def _layout_of(folder: Path) -> _Layout | None:
    for layout in _LAYOUTS:
        numbered = "{}" in layout.train
        # Names such as `train` alone say little: both files of a folder tell that it is CIFAR-100.
        beside = () if numbered else (layout.test if layout.label_bytes else layout.names,)
        if all((folder / name).is_file() for name in (layout.train.format(1), *beside)):
            return layout
    return None


def _paths(folder: Path, layout: _Layout) -> dict[str, list[Path]]:
    if "{}" in layout.train:
        batches = [folder / layout.train.format(number) for number in range(1, _MAX_BATCHES + 1)]
        train = [path for path in batches if path.is_file()]
        for path, expected in zip(train, batches, strict=False):
            if path != expected:
                raise DataError(f"{expected}: no such file, but {path.name} is there; get it too")
    else:
        train = [folder / layout.train]
    test = folder / layout.test
    return {"train": train, **({"test": [test]} if test.is_file() else {})}


def _binary_batch(path: Path, layout: _Layout) -> _Batch:
    row_bytes = layout.label_bytes + _PIXEL_BYTES
    count = count_rows(path, row_bytes, f"an image of CIFAR-{layout.num_classes}")
    with path.open("rb") as file:
        column = layout.label_bytes - 1
        labels = np.array([row[column] for row in iter_rows(file, (count, row_bytes))], np.int64)
    return _Batch(path, 0, row_bytes, _checked(labels, layout, path))


def _pickled_batch(path: Path, layout: _Layout) -> _Batch:
    values = read_pickled_dict(path)
    array, labels = values.get("data"), values.get(layout.label_key)
    if not isinstance(array, PickledArray) or array.data is None:
        raise DataError(f"{path}: has no array 'data', but {_keys(values)}; get the file again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(
            f"{path}: has no list of integers {layout.label_key!r}, but {_keys(values)}; get the "
            "file again"
        )
    if array.shape != (len(labels), _PIXEL_BYTES) or not labels:
        raise DataError(
            f"{path}: data has shape {list(array.shape)}; {len(labels)} labels need "
            f"[{len(labels)}, {_PIXEL_BYTES}]"
        )
    checked = _checked(np.array(labels, np.int64), layout, path)
    return _Batch(path, array.data.offset, _PIXEL_BYTES, checked)


def _checked(labels: npt.NDArray[np.int64], layout: _Layout, path: Path) -> npt.NDArray[np.int64]:
    bad = np.flatnonzero((labels < 0) | (labels >= layout.num_classes))
    if len(bad):
        raise DataError(
            f"{path} image {bad[0]}: label {labels[bad[0]]}; those of CIFAR-{layout.num_classes} "
            f"are 0 to {layout.num_classes - 1}"
        )
    return labels


def _names(path: Path, layout: _Layout) -> list[str] | None:
    if layout.label_bytes or not path.is_file():
        return read_class_names(path)
    names = read_pickled_dict(path).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: has no list of texts {layout.names_key!r}; get the file again")
    return names


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(repr(key[:40]) for key in list(values)[:8]) or "nothing"
