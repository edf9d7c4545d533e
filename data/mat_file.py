"""A reader of MATLAB's `.mat` files of version 5 (saved by `-v6` or `-v7`): numeric arrays alone.

Arrays are streamed, also compressed ones; structs, cells, objects and functions are passed over
unread. Sizes that a file claims are checked before anything is read.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.errors import DataError, cause
from data.rows import Readable, read_exactly

_HEADER_BYTES = 128
_VERSION_5 = 0x0100
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_NUMERIC_CLASSES = range(6, 16)  # from double to uint64
_COMPLEX = 0x0800
_MAX_DIMENSIONS = 8
_MAX_NAME_BYTES = 64
_CHUNK_BYTES = 2**16
_DTYPES = {
    1: "<i1",
    2: "<u1",
    3: "<i2",
    4: "<u2",
    5: "<i4",
    6: "<u4",
    7: "<f4",
    9: "<f8",
    12: "<i8",
    13: "<u8",
}


@dataclass(frozen=True, slots=True)
class MatArray:
    """One array: its values follow in `file`, the first axis fastest.

    They can be read only while the iteration that gave it stands at it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    file: Readable


def iter_mat_arrays(path: Path) -> Iterator[MatArray]:
    """Stream the real numeric arrays of a file, in its order.

    Raises:
        DataError: it is no `.mat` file of version 5, or is damaged.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        _check_header(path, file.read(_HEADER_BYTES))
        offset = _HEADER_BYTES
        while offset < end:
            try:
                file.seek(offset)
                kind, size = struct.unpack("<II", read_exactly(file, 8))
                if offset + 8 + size > end:
                    raise ValueError(f"an element that goes on to {offset + 8 + size} of {end}")
                array = _array(_inner(file, kind, size))
            except (ValueError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{path} offset {offset}: the .mat file is damaged: {cause(error)}; "
                    "get it again"
                ) from error
            if array is not None:
                yield array
            offset += 8 + size


class _Inflated:
    """The unpacked bytes of a compressed element, read in small pieces."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._inflate = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        pieces = []
        while size > 0 and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail
            if not packed:
                packed = self._file.read(min(self._left, _CHUNK_BYTES))
                self._left -= len(packed)
            piece = self._inflate.decompress(packed, size)
            if not piece and not packed:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _check_header(path: Path, header: bytes) -> None:
    if len(header) < _HEADER_BYTES or header[126:128] not in (b"IM", b"MI"):
        raise DataError(f"{path}: no .mat file of version 5; save it by MATLAB with -v7")
    if header[126:128] == b"MI":
        raise DataError(f"{path}: a big-endian .mat file; save it anew on a usual machine")
    (version,) = struct.unpack("<H", header[124:126])
    if version != _VERSION_5:
        raise DataError(f"{path}: .mat version {version:#06x}, not 0x0100; save it with -v7")


def _inner(file: BinaryIO, kind: int, size: int) -> tuple[int, int, Readable]:
    """Type, size and bytes of an element, unpacked if need be."""
    if kind != _COMPRESSED:
        return kind, size, file
    inflated = _Inflated(file, size)
    inner_kind, inner_size = struct.unpack("<II", read_exactly(inflated, 8))
    return inner_kind, inner_size, inflated


def _array(element: tuple[int, int, Readable]) -> MatArray | None:
    kind, size, file = element
    if kind != _MATRIX or size == 0:
        return None
    flags = _small_element(file, _UINT32, 8, "array flags")
    if len(flags) != 8:
        raise ValueError(f"array flags of {len(flags)} bytes")
    (word,) = struct.unpack("<I", flags[:4])
    if word & 0xFF not in _NUMERIC_CLASSES or word & _COMPLEX:
        return None
    dimensions = _small_element(file, _INT32, 4 * _MAX_DIMENSIONS, "dimensions")
    if len(dimensions) % 4:
        raise ValueError(f"dimensions of {len(dimensions)} bytes")
    shape = struct.unpack(f"<{len(dimensions) // 4}i", dimensions)
    name = _small_element(file, _INT8, _MAX_NAME_BYTES, "a name").decode("ascii")
    value_kind, value_bytes, _ = _tag(file)
    dtype = np.dtype(_DTYPES.get(value_kind, "V1"))
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != value_bytes:
        raise ValueError(f"{value_bytes} bytes of {dtype} for an array of shape {list(shape)}")
    if value_bytes > size:
        raise ValueError(f"an array of {value_bytes} bytes in an element of {size}")
    return MatArray(name, shape, dtype, file)


def _tag(file: Readable) -> tuple[int, int, bool]:
    """Type, size and whether the bytes are in the tag's own 8."""
    (word,) = struct.unpack("<I", read_exactly(file, 4))
    if word >> 16:
        return word & 0xFFFF, word >> 16, True
    (size,) = struct.unpack("<I", read_exactly(file, 4))
    return word, size, False


def _small_element(file: Readable, kind: int, max_bytes: int, what: str) -> bytes:
    found, size, packed = _tag(file)
    if found != kind or size > (4 if packed else max_bytes):
        raise ValueError(f"{what} of type {found} and {size} bytes")
    return read_exactly(file, 4 if packed else -(-size // 8) * 8)[:size]
