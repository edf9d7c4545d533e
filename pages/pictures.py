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


def thumbnail(pixels: npt.NDArray[np.uint8], *, side: int) -> str:
    """An image uint8 [C, H, W], C of 1 or 3, as a data URI, at most `side` pixels high and wide."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return data_uri(file.getvalue())
