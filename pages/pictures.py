"""Pictures inside a page: PNG files as data URIs, and images scaled down to be seen at a glance.

Shapes: C channels, H height, W width.
"""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def data_uri(png: bytes) -> str:
    """A PNG file as the address of a picture."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def channels_seen(channels: int) -> int:
    """How many channels of an image a picture of it shows: the first three as colour, or one."""
    return 3 if channels >= 3 else 1


def to_picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """What is seen of an image uint8 [C, H, W]."""
    seen = pixels[: channels_seen(len(pixels))]
    return Image.fromarray(
        np.ascontiguousarray(seen[0] if len(seen) == 1 else seen.transpose(1, 2, 0))
    )


def thumbnail(pixels: npt.NDArray[np.uint8], *, side: int) -> str:
    """An image uint8 [C, H, W] as a data URI, at most `side` pixels high and wide."""
    image = to_picture(pixels)
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return data_uri(file.getvalue())
