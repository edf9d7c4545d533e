"""Images from a folder: a class per subfolder, optionally below train/ and test/, or flat.

Or classes stand in a file of labels.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.encoded_images import MAX_FILE_BYTES, SOURCE_SUFFIXES, EncodedImage, EncodedImages
from data.errors import DataError, printable
from data.folder_layout import read_layout
from data.label_file import LabelFile
from data.sources import SourceImage, UnreadableImage, read_about


class ImageFolderSource:
    """PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM files.

    All files' headers are read first. If any image is in colour, all are packed with 3 channels.
    The files' order is that of a hash of their names: fixed, and the classes are mixed.
    Hidden files and files with other endings are passed over; links are followed.
    Given a file of labels, folders name splits alone.
    """

    def __init__(
        self, folder: Path, *, size: int | None = None, labels: LabelFile | None = None
    ) -> None:
        about = read_about(folder)
        self._folder = folder
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"image folder {self.name}"
        self.licence = about.licence
        if about.classes is not None and labels is None:
            raise DataError(f"{folder}: about.json names classes; here the subfolders name them")
        paths = [PurePosixPath(path.relative_to(folder)) for path in images_below(folder)]
        if not paths:
            raise DataError(
                f"{folder}: no images found; looked for files ending in "
                f".{', .'.join(SOURCE_SUFFIXES)}"
            )
        layout = read_layout(str(folder), paths, labels, about.classes)
        self._files = layout.splits
        self.classes = layout.classes
        self._encoded = EncodedImages(self._entries, list(layout.splits), size=size)
        self.counts = self._encoded.counts
        self.digest = self._encoded.digest

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, files with unreadable headers first, scaled to the size asked for."""
        return self._encoded.images(split)

    def _entries(self, split: str) -> Iterator[EncodedImage | UnreadableImage]:
        for file in self._files[split]:
            path = self._folder / file.path
            origin = printable(str(path))
            try:
                data = read_image_file(path)
            except DataError as error:
                yield UnreadableImage(origin, str(error))
                continue
            suffix = path.suffix[1:].lower()
            yield EncodedImage(origin, file.path.as_posix(), file.label, data, suffix)


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and those inside it, in no particular order.

    Hidden files and folders are passed over. Links are followed.

    Raises:
        DataError: a folder cannot be listed, or is a link to a folder that holds it.
    """
    todo: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while todo:
        root, above = todo.pop()
        try:
            status = root.stat()
            names = sorted(entry.name for entry in os.scandir(root))
        except OSError as error:
            raise DataError(f"{printable(str(root))}: cannot be read: {error.strerror}") from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            shown = printable(str(root))
            raise DataError(f"{shown}: a link to a folder that holds it; remove the link")
        for name in names:
            path = root / name
            if name.startswith("."):
                continue
            if path.is_dir():
                todo.append((path, above | {identity}))
            elif is_image(path):
                yield path


def is_image(path: Path | PurePosixPath) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix[1:].lower() in SOURCE_SUFFIXES and not path.name.startswith(".")


def read_image_file(path: Path) -> bytes:
    """Read a file that may be an image.

    Raises:
        DataError: it is no plain file, too large or cannot be read; without its name.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise DataError("is no file")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"above {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
