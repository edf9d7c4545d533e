"""Arrays of `.npy` files: their headers, the axis of the channels, and values as 8 bits."""

import io
import struct
from typing import IO

import numpy as np
import numpy.typing as npt

from data.errors import DataError, cause

_MAX_HEADER_BYTES = 2**16  # real ones are below 1 KiB
_MOST_CHANNELS_OF_OBLONG = 16
PIXEL_TYPES = (np.dtype("u1"), np.dtype("<u2"), np.dtype(">u2"))
"""What intensities are: 8 bits, or 16, of which the upper 8 are kept."""


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
    """Which axis of one image holds its channels.

    The last of 1 or 3, else the first of 1 or 3; of square images the axis that differs from the
    two others; else the shortest of all, first or last, of up to 16.

    Args:
        shape: [H, W], [H, W, C] or [C, H, W].
    Returns:
        None for [H, W].
    Raises:
        DataError: any other shape, or one that does not tell.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3:
        first, middle, last = shape
        if last in (1, 3):
            return 2
        if first in (1, 3):
            return 0
        if first == middle != last:
            return 2
        if first != middle == last:
            return 0
        shortest, *others = sorted(shape)
        if shortest < others[0] and middle != shortest <= _MOST_CHANNELS_OF_OBLONG:
            return shape.index(shortest)
        raise DataError(
            f"image array of shape {list(shape)}, of which it cannot be told which axis holds the "
            "channels; make the images square, or save them as [H, W, C] with 1 or 3 channels"
        )
    raise DataError(f"image array of shape {list(shape)}; [H, W], [H, W, C] or [C, H, W] is read")


def channels_in_words(channels: int) -> str:
    """What images of so many channels are in: grey, colour, or so many channels."""
    return {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")


def to_chw(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Copy one image of any of the shapes above to contiguous [C, H, W]."""
    axis = channel_axis(array.shape)
    if axis is None:
        return np.array(array[np.newaxis], order="C", copy=True)
    return np.array(np.moveaxis(array, axis, 0), order="C", copy=True)


def to_uint8(values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Return intensities of 16 bits by their upper 8 bits, those of 8 bits as they are."""
    if values.dtype.itemsize == 1:
        return values.view(np.uint8)
    return (values >> 8).astype(np.uint8)
