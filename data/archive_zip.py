"""The images in a zip archive, which may be hostile: nothing is ever extracted."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data.archive import images_by_path
from data.encoded_images import MAX_FILE_BYTES
from data.errors import DataError, cause

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack without a limit of their own
_MAX_RATIO = 200  # images barely shrink; a bomb's deflate reaches 1032
_ENCRYPTED = 0x1
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


class ZipArchive:
    """An `Archive` of the format zip; a damaged one is refused as a whole."""

    kind = "zip"
    damage = None

    def __init__(self, path: Path) -> None:
        """List the archive's images.

        Raises:
            DataError: it cannot be read as zip, a name in it is refused, an image is encrypted, or
                the images claim to be far larger than the archive.
        """
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except _READ_ERRORS as error:
            raise DataError(
                f"{path}: cannot be read as zip: {cause(error)}; get it again"
            ) from error
        self._members = images_by_path(path, ((member.filename, member) for member in members))
        self.images = list(self._members)
        _check_images(path, self._members)

    def read(self, paths: Iterable[PurePosixPath]) -> Iterator[bytes | str]:
        """Stream the bytes of these images, or as text why one cannot be read.

        Raises:
            DataError: the archive itself cannot be read any more.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                for path in paths:
                    yield _read(archive, self._members[path])
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{self.path}: cannot be read as zip: {cause(error)}") from error


def _check_images(path: Path, images: dict[PurePosixPath, zipfile.ZipInfo]) -> None:
    for inside, member in images.items():
        if member.flag_bits & _ENCRYPTED:
            raise DataError(f"{path}: {inside} is encrypted; unpack it and give the folder")
    unpacked, limit = sum(m.file_size for m in images.values()), path.stat().st_size * _MAX_RATIO
    if unpacked > max(limit, MAX_FILE_BYTES):
        raise DataError(
            f"{path}: claims to unpack to {unpacked} bytes, more than {_MAX_RATIO} times its own "
            f"{path.stat().st_size}, as images do not; unpack it and give the folder"
        )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | str:
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a symbolic link, not a plain file"
    if member.compress_type not in _METHODS:
        return f"compressed by method {member.compress_type}; stored and deflate are read"
    if member.file_size > MAX_FILE_BYTES:
        return f"above {MAX_FILE_BYTES} bytes"
    try:
        with archive.open(member) as file:
            return file.read(member.file_size)
    except _READ_ERRORS as error:
        return f"cannot be read: {cause(error)}"
