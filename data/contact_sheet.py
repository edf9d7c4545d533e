"""A contact sheet: images in a grid with a line below each, as one picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_SMALLEST_SIDE = 64
_LARGEST_SIDE = 256
_GAP = 8
_LINE = 14
_INK, _PAPER = "#222222", "#ffffff"

Captioned = tuple[Image.Image, str]
"""A picture, and the words below it."""


def contact_sheet(rows: Sequence[Sequence[Captioned]]) -> Image.Image:
    """Lay rows of images out, each image with its words below, cut to its width.

    Small ones are enlarged by whole pixels, large ones scaled down.

    Args:
        rows: of images in grey or colour, one image or more in all.
    """
    fitting = [
        [(fitted(image, _SMALLEST_SIDE, _LARGEST_SIDE), text) for image, text in row]
        for row in rows
    ]
    wide = max(picture.width for row in fitting for picture, _ in row)
    high = max(picture.height for row in fitting for picture, _ in row)
    columns = max(map(len, rows))
    size = (columns * (wide + _GAP) + _GAP, len(rows) * (high + _LINE + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for down, row in enumerate(fitting):
        for across, (picture, text) in enumerate(row):
            left = _GAP + across * (wide + _GAP)
            top = _GAP + down * (high + _LINE + _GAP)
            sheet.paste(picture, (left + (wide - picture.width) // 2, top + high - picture.height))
            while text and draw.textlength(text, font) > wide + _GAP:
                text = text[:-1]
            draw.text((left, top + high + 1), text, _INK, font)
    return sheet


def fitted(image: Image.Image, smallest: int, largest: int) -> Image.Image:
    """Enlarge an image by whole pixels until its longer side has `smallest`, or scale it down."""
    longest = max(image.size)
    if longest < smallest:
        factor = -(-smallest // longest)
        size = image.width * factor, image.height * factor
        return image.resize(size, Image.Resampling.NEAREST)
    image = image.copy()
    image.thumbnail((largest, largest))
    return image
