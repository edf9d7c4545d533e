"""Images from a folder: a class per subfolder, optionally below train/ and test/, or flat."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.decode import SHARD_FORMATS, decode_image, fit_image, image_shape
from data.errors import DataError, printable
from data.sources import SPLITS, SourceImage, UnreadableImage, read_about

SOURCE_FORMATS = (*SHARD_FORMATS, "BMP", "GIF", "TIFF", "PPM")
_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "pgm", "ppm")
_SHARD_SUFFIXES = ("png", "jpg", "jpeg", "webp")
_MAX_FILE_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    label: int | None


class ImageFolderSource:
    """PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM files.

    All files' headers are read first. If any image is in colour, all are packed with 3 channels.
    The files' order is that of a hash of their names: fixed, and the classes are mixed.
    Hidden files and files with other endings are passed over.
    """

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        about = read_about(folder)
        self._folder = folder
        self._size = size
        self.name = about.name or folder.resolve().name
        self.source = about.source or f"image folder {self.name}"
        self.licence = about.licence
        if about.classes is not None:
            raise DataError(f"{folder}: about.json names classes; here the subfolders name them")
        class_folders = {split: _class_folders(root) for split, root in _split_roots(folder)}
        self.classes = _join_classes(folder, class_folders)
        self._files = {
            split: self._list_files(root, class_folders[split])
            for split, root in _split_roots(folder)
        }
        if not self._files["train"]:
            raise DataError(
                f"{folder}: no images found; looked for files ending in .{', .'.join(_SUFFIXES)}"
            )
        self.counts = {split: len(files) for split, files in self._files.items() if files}
        self._unreadable: dict[Path, str] = {}
        self._scan()

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, files with unreadable headers first, scaled to the size asked for."""
        readable = [file for file in self._files[split] if file.path not in self._unreadable]
        for file in self._files[split]:
            if file.path in self._unreadable:
                yield UnreadableImage(printable(str(file.path)), self._unreadable[file.path])
        for file in readable:
            origin = printable(str(file.path))
            data = read_image_file(file.path)
            if isinstance(data, str):
                yield UnreadableImage(origin, data)
                continue
            suffix = file.path.suffix[1:].lower()
            try:
                image = decode_image(data, suffix, size=self._size, formats=SOURCE_FORMATS)
            except DataError as error:
                yield UnreadableImage(origin, str(error))
                continue
            # Original bytes stand for this image only where they decode to the same pixels.
            same = image.shape[0] == self._channels and self._size is None
            yield SourceImage(
                origin=origin,
                label=file.label,
                image=fit_image(image, channels=self._channels),
                original=data if same and suffix in _SHARD_SUFFIXES else None,
                suffix=suffix,
            )

    def _list_files(self, root: Path, class_folders: list[Path]) -> list[_File]:
        if not class_folders:
            files = [_File(path, None) for path in _images_in(root)]
        else:
            assert self.classes is not None
            files = [
                _File(path, self.classes.index(class_folder.name))
                for class_folder in class_folders
                for path in images_below(class_folder)
            ]
        return sorted(files, key=lambda file: _name_hash(file.path.relative_to(self._folder)))

    def _scan(self) -> None:
        """Read every file once: its contents' hash, and the channels and shape of its image."""
        content = hashlib.sha256()
        first: tuple[Path, tuple[int, int]] | None = None
        self._channels = 1
        for split in self.counts:
            for file in self._files[split]:
                data = read_image_file(file.path)
                if isinstance(data, str):
                    self._unreadable[file.path] = data
                    continue
                content.update(_name_hash(file.path.relative_to(self._folder)))
                content.update(hashlib.sha256(data).digest())
                try:
                    channels, height, width = image_shape(data, formats=SOURCE_FORMATS)
                except DataError as error:
                    self._unreadable[file.path] = str(error)
                    continue
                self._channels = max(self._channels, channels)
                first = first or (file.path, (height, width))
                if self._size is None and (height, width) != first[1]:
                    raise DataError(
                        f"{printable(str(file.path))} is {width} x {height} pixels, "
                        f"{printable(str(first[0]))} is "
                        f"{first[1][1]} x {first[1][0]}; --size N makes all N x N"
                    )
        self.digest = content.hexdigest()


def _split_roots(folder: Path) -> list[tuple[str, Path]]:
    """The folder of each split; the folder itself is `train` where it is not divided."""
    names = {path.name for path in _subfolders(folder)}
    if "train" in names and names <= set(SPLITS):
        if any(_images_in(folder)):
            raise DataError(f"{folder}: images lie beside train/; move them into it")
        return [(split, folder / split) for split in SPLITS if split in names]
    if names.issuperset(SPLITS):
        others = ", ".join(sorted(names - set(SPLITS)))
        raise DataError(f"{folder}: beside train/ and test/ there is {others}; move it elsewhere")
    return [("train", folder)]


def _class_folders(root: Path) -> list[Path]:
    folders = [path for path in _subfolders(root) if any(images_below(path))]
    loose = next(_images_in(root), None)
    if folders and loose is not None:
        raise DataError(
            f"{root}: {loose.name} lies beside class folders such as {folders[0].name}/; "
            "put every image into a class folder, or all of them flat"
        )
    return folders


def _join_classes(folder: Path, class_folders: dict[str, list[Path]]) -> list[str] | None:
    names = {split: [path.name for path in paths] for split, paths in class_folders.items()}
    odd = sorted({n for of_split in names.values() for n in of_split if not n.isprintable()})
    if odd:
        raise DataError(
            f"{printable(str(folder / odd[0]))}: a class folder's name has characters that cannot "
            "be printed; rename it"
        )
    known = names["train"] or names.get("test", [])
    unknown = sorted(set(names.get("test", [])) - set(known))
    if unknown:
        raise DataError(f"{folder / 'test' / unknown[0]}: train/ has no such class")
    return sorted(known) or None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if is_image(path) and path.is_file())


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and those inside it; hidden ones are passed over."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(root) / name
            if is_image(path):
                yield path


def read_image_file(path: Path) -> bytes | str:
    """The bytes of a file, or why there are none: it is a pipe or a device, too large, or such."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            return "is no file"
        if status.st_size > _MAX_FILE_BYTES:
            return f"above {_MAX_FILE_BYTES} bytes"
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix[1:].lower() in _SUFFIXES and not path.name.startswith(".")


def _name_hash(relative: Path) -> bytes:
    return hashlib.sha256(os.fsencode(relative.as_posix())).digest()
