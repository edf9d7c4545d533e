"""Pictures in a terminal of 24-bit colours: a character is two pixels, one above the other."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from data.contact_sheet import Captioned

_HALF_BLOCK = "▀"
_RESET = "\x1b[0m"
_GAP = 1
_SMALLEST_SIDE = 8


def picture_lines(rows: Sequence[Sequence[Captioned]], *, width: int) -> Iterator[str]:
    """Yield lines that show rows of images, each image with its words below.

    Args:
        width: characters of the terminal; images are made as wide as fits, and no wider than they
            are. What does not fit at `_SMALLEST_SIDE` characters is put into further rows.
    """
    columns = max(1, min(max(map(len, rows)), (width + _GAP) // (_SMALLEST_SIDE + _GAP)))
    widest = max(image.width for row in rows for image, _ in row)
    side = max(1, min((width + _GAP) // columns - _GAP, widest))
    for row in rows:
        for start in range(0, len(row), columns):
            part = row[start : start + columns]
            pictures = [_lines(image, side) for image, _ in part]
            for line in range(max(map(len, pictures))):
                cells = (own[line] if line < len(own) else " " * side for own in pictures)
                yield (" " * _GAP).join(cells).rstrip(" ")
            yield (" " * _GAP).join(_cut(text, side) for _, text in part).rstrip()


def _cut(text: str, side: int) -> str:
    return text[:side].ljust(side)


def _lines(image: Image.Image, side: int) -> list[str]:
    """The lines of one image, `side` characters wide."""
    high = max(1, round(image.height * side / image.width))
    resampling = Image.Resampling.BOX if side < image.width else Image.Resampling.NEAREST
    pixels = np.asarray(image.convert("RGB").resize((side, high), resampling))
    if high % 2:
        pixels = np.concatenate([pixels, np.zeros((1, side, 3), np.uint8)])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m{_HALF_BLOCK}"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + _RESET)
    return lines
