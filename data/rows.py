"""Rows of bytes of equal length, such as images, streamed from an open file a few MiB at a time."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data.errors import DataError

_CHUNK_BYTES = 2**22


class Readable(Protocol):
    """An open file, or something else that gives bytes one after the other."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""


def read_exactly(file: Readable, size: int) -> bytes:
    """Read `size` bytes.

    Raises:
        EOFError: the file has fewer.
    """
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"it ends {size - len(data)} bytes early")
    return data


def iter_rows(
    file: Readable, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8
) -> Iterator[npt.NDArray[Any]]:
    """Yield an array's rows, of `shape[1:]` each, from where the file stands.

    Raises:
        EOFError: the file ends before the array does.
    """
    row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    rows_at_once = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, shape[0], rows_at_once):
        rows = min(rows_at_once, shape[0] - start)
        chunk = read_exactly(file, rows * row_bytes)
        yield from np.frombuffer(chunk, dtype).reshape(rows, *shape[1:])


def count_rows(path: Path, row_bytes: int, what: str) -> int:
    """How many rows of `row_bytes` a file is made of, from 1.

    Raises:
        DataError: its size is no multiple of that; `what` says what a row is.
    """
    size = path.stat().st_size
    if size == 0 or size % row_bytes:
        raise DataError(
            f"{path}: {size} bytes are no multiple of {row_bytes}, {what}; the file is cut off or "
            "of another kind: get it again"
        )
    return size // row_bytes
