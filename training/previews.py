"""Pictures of a batch laid out as a grid, and the grid as a PNG file.

Shapes: N pictures, C channels, H height, W width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

COLUMNS = 8
_GAP = 2
_SMALLEST_SIDE = 56
_FRAME_MS, _LAST_FRAME_MS = 200, 2000


Grid = npt.NDArray[np.uint8]
"""Pixels [height, width, C]."""


def grid_of(images: Tensor) -> Grid:
    """Return images as one picture, eight to a row, small ones enlarged by whole pixels.

    Args:
        images: float [N, C, H, W] in [0, 1] (values outside are clipped); of more than three
            channels the first three are shown, of two the first.
    Raises:
        ValueError: another shape.
    """
    from pages.pictures import channels_seen

    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"pictures: got shape {tuple(images.shape)}, want [N, C, H, W]")
    images = images[:, : channels_seen(images.shape[1])]
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    factor = max(1, -(-_SMALLEST_SIDE // max(pixels.shape[2:])))
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)

    count, channels, height, width = pixels.shape
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    grid: Grid = np.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8
    )
    for index, picture in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        grid[top : top + height, left : left + width] = picture
    return grid


def save_png(path: Path, grid: Grid) -> None:
    """Write a grid as a PNG file, which is replaced whole."""
    from PIL import Image

    temporary = path.with_suffix(".writing")
    Image.fromarray(grid.squeeze(-1) if grid.shape[2] == 1 else grid).save(temporary, format="PNG")
    temporary.replace(path)


def save_animation(path: Path, frames: Sequence[Path]) -> None:
    """Write PNG files of one size as a GIF that shows one after the other, without end.

    Args:
        path: of the GIF, which is replaced whole.
        frames: one at least.
    """
    from PIL import Image

    pictures = [Image.open(frame) for frame in frames]
    temporary = path.with_suffix(".writing")
    pictures[0].save(
        temporary,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        # The last, which is the result, stays longer.
        duration=[_FRAME_MS] * (len(pictures) - 1) + [_LAST_FRAME_MS],
        loop=0,
    )
    temporary.replace(path)
