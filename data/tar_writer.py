"""Writing tars whose bytes depend on their members alone: no time, no owner.

`tarfile` takes longer over the header of a small member than all else that writes it. Headers of
plain names are made from a template here, and equal its own.
"""

import tarfile
from pathlib import Path
from typing import BinaryIO

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_LONGEST_NAME = 99
_LARGEST = 8**11 - 1
_CHECKSUM = slice(148, 155)
_SIZE = slice(124, 135)


class TarWriter:
    """A tar file that members are appended to; the archive ends when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=2**20)
        self.offset = 0
        """Bytes written."""

    def add(self, name: str, data: bytes) -> None:
        """Append a plain file; a name that is long or not ASCII gets a pax header."""
        self._write(_header(name, len(data)))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))

    def close(self) -> None:
        """End the archive: two empty blocks, and more up to a whole record."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.offset % RECORD))
        self._file.close()

    def abandon(self) -> None:
        """Close the file without the end of an archive: it is not whole."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.offset += len(data)


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


_TEMPLATE = _tarfile_header("", 0)
_TEMPLATE_SUM = int(_TEMPLATE[_CHECKSUM].rstrip(b"\0"), 8) - sum(_TEMPLATE[_SIZE])


def _header(name: str, size: int) -> bytes:
    if not name.isascii() or len(name) > _LONGEST_NAME or size > _LARGEST:
        return _tarfile_header(name, size)
    raw, digits = name.encode("ascii"), b"%011o" % size
    header = bytearray(_TEMPLATE)
    header[: len(raw)] = raw
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o\0" % (_TEMPLATE_SUM + sum(raw) + sum(digits))
    return bytes(header)
