"""Decoding one image to uint8 [C, H, W] (channels, height, width), by fixed rules.

- The header is read first: an image above the pixel limit is never decoded.
- Grey images have 1 channel, all others 3. Palettes are resolved, CMYK and other colour spaces
  become RGB, 16-bit values keep their upper 8 bits, transparent pixels are laid over white.
- EXIF orientation is applied. Of an animation the first frame is taken.
- A `.npy` is uint8 or uint16, [H, W], [H, W, C] or [C, H, W] with any number of channels; objects
  are refused.
- `channels` turns grey into three equal channels, or colour into luma; other numbers stay what they
  are. `size` crops the largest square from the middle and scales it to `size`; a JPEG is decoded at
  the smallest reduced scale that is still large enough.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import IO

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from data.errors import DataError, cause
from data.jpeg_frame import Frame, read_frame
from data.npy import PIXEL_TYPES, channel_axis, read_npy_header, to_chw, to_uint8

MAX_PIXELS = 2**26
SHARD_FORMATS = ("PNG", "JPEG", "WEBP")

_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_TRANSPARENT_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_EXIF_ORIENTATION = 0x0112
_JPEG = b"\xff\xd8\xff"
_BAND_ROWS = 256
_NO_SUCH_CHANNELS = "an image in {} cannot become one of {} channels; grey and colour can, 1 and 3"
_MAX_SCANS = 100  # real progressive JPEGs have about ten

# They name no file, and what matters of them ends as an error here.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode_image(
    data: bytes,
    suffix: str,
    *,
    channels: int | None = None,
    size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = SHARD_FORMATS,
    out_HWC: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode an image by this module's rules.

    Args:
        data: the encoded image.
        suffix: its ending without a dot; only "npy" matters, other formats are recognized by
            their first bytes.
        channels: 1 or 3, or the number that the image has; None keeps that.
        size: height and width of the result in pixels; None keeps the image's own.
        max_pixels: above this many pixels (width times height) the image is refused undecoded.
        formats: Pillow's names of the formats that may be read.
        out_HWC: contiguous uint8 [H, W, C], that may be written to: a JPEG that is only to be
            decoded, to this shape, is decoded here, and the result is a view of it.
    Returns:
        uint8 [C, H, W], its channels last in memory or not.
    Raises:
        DataError: the image cannot be decoded, or is too large; without the image's name.
    """
    if suffix == "npy":
        return fit_image(_decode_npy(data, max_pixels), channels=channels, size=size)
    if data.startswith(_JPEG) and "JPEG" in formats:
        frame = read_frame(data)
        if frame.several_scans:
            _check_scans(data)
        if not frame.exif:
            decoded = _decode_plain_jpeg(data, frame, max_pixels, size, out_HWC)
            if decoded is not None:
                return fit_image(decoded, channels=channels, size=size)
    try:
        image = _open(data, max_pixels, formats)
        if size is not None:
            image.draft(None, (size, size))
        return fit_image(_to_array(image, channels), size=size)
    except DataError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise DataError(f"does not decode: {type(error).__name__}: {cause(error)}") from error


def _decode_plain_jpeg(
    data: bytes,
    frame: Frame,
    max_pixels: int,
    size: int | None,
    out_HWC: npt.NDArray[np.uint8] | None,
) -> npt.NDArray[np.uint8] | None:
    """Decode a grey or YCbCr JPEG, uint8 [C, H, W], not turned by any EXIF; None: any other.

    The pixels are Pillow's, which takes twice as long; at a reduced scale any eighth will do, where
    Pillow has halves alone.
    """
    try:
        if not frame.standard and simplejpeg.decode_jpeg_header(data)[2] != "YCbCr":
            return None
        height, width, channels = frame.shape
        _check_pixels(width, height, max_pixels)
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if channels == 1 else "RGB",
            min_height=size or 0,
            min_width=size or 0,
            buffer=out_HWC if out_HWC is not None and out_HWC.shape == frame.shape else None,
        )
    except DataError:
        raise
    except ValueError:
        return None  # damaged: Pillow says how
    return np.asarray(pixels.transpose(2, 0, 1))


def fit_image(
    image_CHW: npt.NDArray[np.uint8], *, channels: int | None = None, size: int | None = None
) -> npt.NDArray[np.uint8]:
    """Bring decoded pixels to `channels` and `size`, as `decode_image` would."""
    found = len(image_CHW)
    if channels not in (None, found):
        if found not in (1, 3):
            raise DataError(_NO_SUCH_CHANNELS.format(f"{found} channels", channels))
        pixels = image_CHW[0] if found == 1 else np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
        image_CHW = _to_array(Image.fromarray(pixels), channels)
    if size is not None and image_CHW.shape[1:] != (size, size):
        image_CHW = _scaled_square(image_CHW, size)
    return image_CHW


def _scaled_square(image_CHW: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Scale the largest square from the middle, by antialiased bicubic interpolation.

    Torch's values are within 2 of Pillow's, which takes four times as long.
    """
    height, width = image_CHW.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image_CHW[:, top : top + side, left : left + side]
    if not square.flags.writeable:  # which torch does not share
        square = square.copy()
    scaled = F.interpolate(
        torch.from_numpy(square)[None], (size, size), mode="bicubic", antialias=True
    )
    return scaled[0].numpy()


def image_shape(
    data: bytes, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = SHARD_FORMATS
) -> tuple[int, int, int]:
    """Channels, height and width that `decode_image` would give, from the header alone.

    Raises:
        DataError: not an image, or too large.
    """
    try:
        image = _open(data, max_pixels, formats)
        width, height = image.size
        if _orientation(image) >= 5:  # turned by 90 degrees
            width, height = height, width
        return (1 if image.mode in _GREY_MODES else 3), height, width
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(f"does not decode: {type(error).__name__}: {cause(error)}") from error


def check_array_shape(shape: tuple[int, ...], max_pixels: int = MAX_PIXELS) -> None:
    """Check that an array of this shape is one image, and not too large.

    Raises:
        DataError: it is neither [H, W], [H, W, C] nor [C, H, W], is empty, or too large.
    """
    axis = channel_axis(shape)
    height, width = (n for i, n in enumerate(shape) if i != axis)
    _check_pixels(width, height, max_pixels)


def npy_shape(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int, int]:
    """Channels, height and width of an image in a `.npy`, from its header alone.

    Raises:
        DataError: it is none, or too large.
    """
    shape, _, _ = _npy_header(io.BytesIO(data), max_pixels)
    axis = channel_axis(shape)
    height, width = (n for i, n in enumerate(shape) if i != axis)
    return 1 if axis is None else shape[axis], height, width


def _open(data: bytes, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=list(formats))
    except UnidentifiedImageError as error:
        raise DataError(f"does not decode: not one of {', '.join(formats)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"its header is above the limit of {max_pixels} pixels") from error
    _check_pixels(image.width, image.height, max_pixels)
    return image


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{width} x {height} pixels: it is empty")
    if width * height > max_pixels:
        raise DataError(f"{width} x {height} pixels is above the limit of {max_pixels} pixels")


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG whose many tiny scans each go over all of its pixels."""
    if (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise DataError(f"a JPEG of {scans} scans; up to {_MAX_SCANS} are decoded")


def _orientation(image: Image.Image) -> int:
    """How EXIF says that the image lies, 1 to 8; 1, upright, where that cannot be read."""
    if "exif" not in image.info:
        return 1
    try:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF, in many ways: like a broken colour profile it is ignored
        return 1
    return orientation if orientation in range(1, 9) else 1


def _to_array(image: Image.Image, channels: int | None) -> npt.NDArray[np.uint8]:
    image = _to_grey_or_rgb(image)
    if channels not in (None, 1, 3):
        kind = "grey" if image.mode == "L" else "colour"
        raise DataError(_NO_SUCH_CHANNELS.format(kind, channels))
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    array = np.array(image)
    return array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Decode to mode L or RGB, upright."""
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise DataError(f"grey values from {wide.min()} to {wide.max()} are not 16-bit")
        return Image.fromarray((wide >> 8).astype(np.uint8))
    if image.mode == "F":
        raise DataError("floating-point pixels have no fixed range; save it with 8 bits")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparent pixels over white, in bands: it takes many bytes a pixel."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    opaque = Image.new(mode, image.size)
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(image.height, top + _BAND_ROWS)
        band = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        opaque.paste(Image.alpha_composite(white, band).convert(mode), (0, top))
    return opaque


def _npy_header(file: IO[bytes], max_pixels: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    shape, fortran_order, dtype = read_npy_header(file)
    if dtype not in PIXEL_TYPES:
        raise DataError(f"npy of {dtype}; an image is uint8, or uint16, whose upper 8 bits count")
    check_array_shape(shape, max_pixels)
    return shape, fortran_order, dtype


def _decode_npy(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8]:
    file = io.BytesIO(data)
    shape, fortran_order, dtype = _npy_header(file, max_pixels)
    pixels = data[file.tell() :]
    if len(pixels) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"npy of shape {list(shape)} has {len(pixels)} bytes of pixels")
    values = np.frombuffer(pixels, dtype).reshape(shape, order="F" if fortran_order else "C")
    return to_chw(to_uint8(values))
