"""Headers of `.npy` files, and which axis of an image array holds its channels."""

import io
import struct
from typing import IO

import numpy as np
import numpy.typing as npt

from data.errors import DataError, cause

_MAX_HEADER_BYTES = 2**16  # real ones are below 1 KiB


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read a header and leave `file` at the first value: shape, whether Fortran order, dtype.

    Raises:
        DataError: no `.npy` header, or an array of Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            # NumPy would first read as many bytes as are claimed, up to 4 GiB.
            length = file.read(4)
            (header_bytes,) = struct.unpack("<I", length)
            if header_bytes > _MAX_HEADER_BYTES:
                raise DataError(f"npy with a header of {header_bytes} bytes")
            header = io.BytesIO(length + file.read(header_bytes))
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(header)
        else:
            raise DataError(f"npy version {version}; 1.0 or 2.0 is read")
    except DataError:
        raise
    except Exception as error:  # the header is a Python literal, which can fail in many ways
        raise DataError(f"not an npy array: {cause(error)}") from error
    if dtype.hasobject:
        raise DataError("npy of Python objects; only numbers are read")
    if any(n < 0 for n in shape):
        raise DataError(f"npy of shape {list(shape)}")
    return shape, fortran_order, dtype


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of one image holds its channels: the last where it can be, else the first.

    Args:
        shape: [H, W], [H, W, C] or [C, H, W] with C of 1 or 3.
    Returns:
        None for [H, W].
    Raises:
        DataError: any other shape.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and shape[2] in (1, 3):
        return 2
    if len(shape) == 3 and shape[0] in (1, 3):
        return 0
    raise DataError(
        f"image array of shape {list(shape)}; [H, W], [H, W, C] or [C, H, W] with 1 or 3 "
        "channels is read"
    )


def to_chw(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Copy one image of any of the shapes above to contiguous [C, H, W]."""
    axis = channel_axis(array.shape)
    if axis is None:
        return np.array(array[np.newaxis], order="C", copy=True)
    return np.array(np.moveaxis(array, axis, 0), order="C", copy=True)
