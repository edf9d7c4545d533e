"""Images from a zip archive in the layouts of an image folder; nothing is ever extracted."""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.encoded_images import MAX_FILE_BYTES, SOURCE_SUFFIXES, EncodedImage, EncodedImages
from data.errors import DataError, cause
from data.folder_layout import read_layout
from data.label_file import LabelFile
from data.sources import SourceImage, UnreadableImage
from data.sources_folder import is_image

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack without a limit of their own
_MAX_RATIO = 200  # images barely shrink; a bomb's deflate reaches 1032
_ENCRYPTED = 0x1
_DRIVE = re.compile(r"[A-Za-z]:")
_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


class ZipSource:
    """PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM files in a zip archive.

    The layouts are those of an image folder. One folder around everything is passed through.
    Hidden files and files with other endings are passed over.
    """

    def __init__(
        self, path: Path, *, size: int | None = None, labels: LabelFile | None = None
    ) -> None:
        self._path = path
        self.name = path.stem
        self.source = f"zip archive {path.name}"
        self.licence = "not stated"
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except _READ_ERRORS as error:
            raise DataError(
                f"{path}: cannot be read as zip: {cause(error)}; get it again"
            ) from error
        self._members = _images_of(path, members)
        self._around = _folder_around(list(self._members))
        inside = [name.relative_to(self._around) for name in self._members]
        layout = read_layout(str(path), inside, labels, None)
        self._files = layout.splits
        self.classes = layout.classes
        self._encoded = EncodedImages(self._entries, list(layout.splits), size=size)
        self.counts = self._encoded.counts
        self.digest = self._encoded.digest

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, images with unreadable headers first, scaled to the size asked for."""
        return self._encoded.images(split)

    def _entries(self, split: str) -> Iterator[EncodedImage | UnreadableImage]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                for file in self._files[split]:
                    member = self._members[self._around / file.path]
                    origin = f"{self._path}: {member.filename}"
                    try:
                        data = _read(archive, member)
                    except DataError as error:
                        yield UnreadableImage(origin, str(error))
                        continue
                    suffix = file.path.suffix[1:].lower()
                    yield EncodedImage(origin, file.path.as_posix(), file.label, data, suffix)
        except zipfile.BadZipFile as error:
            raise DataError(f"{self._path}: cannot be read as zip: {cause(error)}") from error


def _images_of(path: Path, members: list[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The archive's images by name; an archive with a name that points outside is refused."""
    images: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename
        shown = ascii(name)[1:-1]
        if (
            not name
            or name.startswith("/")
            or "\\" in name
            or _DRIVE.match(name)
            or ".." in name.split("/")
        ):
            raise DataError(
                f"{path}: {shown} is no name inside the archive; the archive is refused, make it "
                "anew from a folder"
            )
        inside = PurePosixPath(name)
        hidden = any(part.startswith(".") for part in inside.parts)
        if member.is_dir() or hidden or not is_image(inside):
            continue
        if not name.isprintable():
            raise DataError(f"{path}: {shown} has characters that cannot be printed; rename it")
        if member.flag_bits & _ENCRYPTED:
            raise DataError(f"{path}: {name} is encrypted; unpack it and give the folder")
        if inside in images:
            raise DataError(f"{path}: the name {name} stands twice; make the archive anew")
        images[inside] = member
    if not images:
        raise DataError(
            f"{path}: no images found; looked for files ending in .{', .'.join(SOURCE_SUFFIXES)}"
        )
    unpacked, limit = sum(m.file_size for m in images.values()), path.stat().st_size * _MAX_RATIO
    if unpacked > max(limit, MAX_FILE_BYTES):
        raise DataError(
            f"{path}: claims to unpack to {unpacked} bytes, more than {_MAX_RATIO} times its own "
            f"{path.stat().st_size}, as images do not; unpack it and give the folder"
        )
    return images


def _folder_around(names: list[PurePosixPath]) -> PurePosixPath:
    """The folder that holds all images, and is no class of its own."""
    around = PurePosixPath()
    first = names[0].parts
    for depth, folder in enumerate(first[:-1]):
        if any(len(name.parts) <= depth + 1 or name.parts[depth] != folder for name in names):
            break
        around /= folder
    return around


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if stat.S_ISLNK(member.external_attr >> 16):
        raise DataError("a symbolic link, not a plain file")
    if member.compress_type not in _METHODS:
        raise DataError(f"compressed by method {member.compress_type}; stored and deflate are read")
    if member.file_size > MAX_FILE_BYTES:
        raise DataError(f"above {MAX_FILE_BYTES} bytes")
    try:
        with archive.open(member) as file:
            return file.read(member.file_size)
    except _READ_ERRORS as error:
        raise DataError(f"cannot be read: {cause(error)}") from error
