"""STL-10 as its authors give it: binary files of 96 x 96 pixels, most of them without labels."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decode import fit_image
from data.errors import DataError
from data.rows import count_rows, iter_rows
from data.sources import SourceImage, class_names, file_sha256, read_about, read_class_names

_CHW = (3, 96, 96)
_NUM_CLASSES = 10
_SPLITS = ("train", "test", "unlabeled")
_NAMES_FILE = "class_names.txt"


def is_stl_folder(folder: Path) -> bool:
    """Whether `folder` holds `train_X.bin` or `unlabeled_X.bin`."""
    return any(_images_file(folder, split).is_file() for split in ("train", "unlabeled"))


class StlSource:
    """`train_X.bin`, `test_X.bin`, their classes in `train_y.bin`, `test_y.bin`, `unlabeled_X.bin`.

    Any of them may be left out. Classes are counted from 1 in the files and from 0 here; their
    names come from `class_names.txt`, else from `about.json`.
    """

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        about = read_about(folder)
        self._size = size
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"STL-10 files of {self.name}"
        self.licence = about.licence
        self.counts: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._labels: dict[str, npt.NDArray[np.int64]] = {}
        content = hashlib.sha256()
        for split in _SPLITS:
            images, labels = _images_file(folder, split), folder / f"{split}_y.bin"
            if not images.is_file():
                if labels.is_file():
                    raise DataError(f"{labels}: there is no {images.name} beside it; get it too")
                continue
            row_bytes = int(np.prod(_CHW))
            self.counts[split] = count_rows(images, row_bytes, "an image of STL-10")
            self._paths[split] = images
            content.update(f"{split} {file_sha256(images)}".encode())
            if labels.is_file():
                self._labels[split] = _read_labels(labels, self.counts[split])
                content.update(file_sha256(labels).encode())
        self.digest = content.hexdigest()
        names = read_class_names(folder / _NAMES_FILE)
        self.classes = class_names(self._labels, about, str(folder), names, _NAMES_FILE)

    def images(self, split: str) -> Iterator[SourceImage]:
        """Stream a split in the file's order."""
        path, labels = self._paths[split], self._labels.get(split)
        with path.open("rb") as file:
            try:
                for row, image in enumerate(iter_rows(file, (self.counts[split], *_CHW))):
                    upright = np.ascontiguousarray(image.transpose(0, 2, 1))
                    yield SourceImage(
                        origin=f"{path} image {row}",
                        name=f"{path.name} {row}",
                        label=None if labels is None else int(labels[row]),
                        image=fit_image(upright, size=self._size),
                    )
            except EOFError as error:
                raise DataError(f"{path}: {error}") from error


def _images_file(folder: Path, split: str) -> Path:
    return folder / f"{split}_X.bin"


def _read_labels(path: Path, count: int) -> npt.NDArray[np.int64]:
    size = path.stat().st_size
    if size != count:
        raise DataError(f"{path}: {size} bytes; {count} images need as many labels of a byte")
    labels = np.frombuffer(path.read_bytes(), np.uint8).astype(np.int64) - 1
    bad = np.flatnonzero((labels < 0) | (labels >= _NUM_CLASSES))
    if len(bad):
        raise DataError(
            f"{path} label {bad[0]}: {labels[bad[0]] + 1}; those of STL-10 are 1 to {_NUM_CLASSES}"
        )
    return labels
