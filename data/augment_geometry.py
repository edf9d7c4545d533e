"""Random crops, mirroring and affine maps of batches: one gather, or one bilinear interpolation.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
import math
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from data.ranges import PositiveRange, ShareRange
from data.sample_params import SampleParams


class GeometryConfig(BaseModel):
    """Where an image's pixels go: crop, then mirror, scale, shear, rotate, shift."""

    crop_area: ShareRange = Field(
        (1.0, 1.0),
        description="smallest and largest share of the image's area that a random crop keeps; it "
        "is scaled to the image's size",
    )
    crop_aspect: PositiveRange = Field(
        (3 / 4, 4 / 3),
        description="narrowest and widest crop, width over height relative to the image's; a side "
        "that would leave the image is cut to it. Of no use where crop_area is [1, 1]",
    )
    horizontal_flip: bool = Field(True, description="mirror left and right with chance one half")
    vertical_flip: bool = Field(False, description="mirror top and bottom with chance one half")
    shift: float = Field(
        0.1,
        ge=0,
        le=1,
        description="farthest move along each axis, as a fraction of height or width; whole "
        "pixels where nothing but flips is on besides",
    )
    scale: PositiveRange = Field(
        (1.0, 1.0), description="smallest and largest magnification about the middle"
    )
    rotation: float = Field(
        0.0, ge=0, le=180, description="farthest rotation about the middle, either way, in degrees"
    )
    shear: float = Field(
        0.0,
        ge=0,
        lt=90,
        description="farthest lean of upright lines, either way, in degrees, before the rotation",
    )
    padding: Literal["zeros", "border"] = Field(
        "zeros", description="what moves in from outside: black, or the nearest pixel of the edge"
    )

    @property
    def crops(self) -> bool:
        """Whether only a part of each image is kept, enlarged."""
        return self.crop_area != (1.0, 1.0)

    @property
    def turns(self) -> bool:
        """Whether pixels are scaled, sheared or rotated about the middle."""
        return self.scale != (1.0, 1.0) or self.rotation > 0 or self.shear > 0

    @property
    def moves(self) -> bool:
        """Whether pixels are mirrored or shifted."""
        return self.horizontal_flip or self.vertical_flip or self.shift > 0


@dataclasses.dataclass(frozen=True)
class GeometryParams(SampleParams):
    """Where each sample's pixels go."""

    crop_size: Tensor
    """Height and width of the part that is kept, as fractions of the image's, [G, 2]."""
    crop_place: Tensor
    """Where it lies between the top (left) edge, 0, and the bottom (right) edge, 1, [G, 2]."""
    flip: Tensor
    """Left and right, bool [G]."""
    vertical_flip: Tensor
    """bool [G]."""
    shift: Tensor
    """Down and right, as fractions of height and width, [G, 2]."""
    scale: Tensor
    """Magnification, [G]."""
    angle: Tensor
    """Counter-clockwise, in radians, [G]."""
    shear: Tensor
    """Tangent of the lean of upright lines: lower rows go right, [G]."""


def draw_geometry(config: GeometryConfig, uniform: Tensor) -> GeometryParams:
    """Make parameters of uniform numbers in [0, 1), [G, 11]."""
    signed = 2 * uniform - 1
    least, most = config.crop_area
    area = least + uniform[:, 7] * (most - least)
    narrow, wide = (math.log(aspect) / 2 for aspect in config.crop_aspect)
    root_aspect = (narrow + uniform[:, 8] * (wide - narrow)).exp()
    root_area = area.sqrt()
    low, high = config.scale
    return GeometryParams(
        crop_size=torch.stack([root_area / root_aspect, root_area * root_aspect], 1).clamp(max=1),
        crop_place=uniform[:, 9:11],
        flip=(uniform[:, 0] < 0.5) & config.horizontal_flip,
        vertical_flip=(uniform[:, 5] < 0.5) & config.vertical_flip,
        shift=signed[:, 1:3] * config.shift,
        scale=low + uniform[:, 3] * (high - low),
        angle=signed[:, 4] * math.radians(config.rotation),
        shear=(signed[:, 6] * math.radians(config.shear)).tan(),
    )


def change_geometry(images: Tensor, params: GeometryParams, config: GeometryConfig) -> Tensor:
    """Return images [B, C, H, W] with their pixels moved; themselves where all is off."""
    if config.crops or config.turns:
        return _warp(images, params, config)
    if config.moves:
        return _move(images, params, config)
    return images


def _move(images: Tensor, params: GeometryParams, config: GeometryConfig) -> Tensor:
    """Flip, then shift by whole pixels: one gather, far cheaper than interpolation."""
    _, channels, height, width = images.shape
    down, right = _whole_pixels(params.shift, height, width)
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside_rows, inside_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    from_rows = torch.where(params.vertical_flip[:, None], height - 1 - inside_rows, inside_rows)
    from_columns = torch.where(params.flip[:, None], width - 1 - inside_columns, inside_columns)
    source = (from_rows[:, :, None] * width + from_columns[:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    moved = moved.view(images.shape)
    if config.padding == "border" or config.shift == 0:
        return moved
    inside = (inside_rows == rows)[:, :, None] & (inside_columns == columns)[:, None, :]
    # A product of floats: far faster than filling by a mask that is broadcast over channels.
    return moved * inside[:, None].to(moved.dtype)


def _whole_pixels(fractions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return (
        (fractions[:, 0] * height).round().long(),
        (fractions[:, 1] * width).round().long(),
    )


def _warp(images: Tensor, params: GeometryParams, config: GeometryConfig) -> Tensor:
    """Crop, flip, scale, shear, rotate and shift by one bilinear interpolation.

    A result's pixel at (x, y), in pixels right and down of the middle, shows the image at
    crop(flip(shear_back(rotate_back((x, y) - shift) / scale))).
    """
    height, width = images.shape[2:]
    cosine, sine = params.angle.cos() / params.scale, params.angle.sin() / params.scale
    mirror, upside_down = (
        1 - 2 * flip.to(params.scale.dtype) for flip in (params.flip, params.vertical_flip)
    )
    # grid_sample counts in half heights and half widths; a rotation needs pixels.
    aspect = height / width
    down, right = 2 * params.shift[:, 0], 2 * params.shift[:, 1]
    x_by_x = mirror * (cosine - params.shear * sine)
    x_by_y = -mirror * (sine + params.shear * cosine) * aspect
    y_by_x, y_by_y = upside_down * sine / aspect, upside_down * cosine
    theta = torch.stack(
        [
            torch.stack([x_by_x, x_by_y, -(x_by_x * right + x_by_y * down)], 1),
            torch.stack([y_by_x, y_by_y, -(y_by_x * right + y_by_y * down)], 1),
        ],
        dim=1,
    )
    padding = config.padding
    if config.crops:
        size, place = params.crop_size.flip(1), params.crop_place.flip(1)
        theta = size[:, :, None] * theta
        theta[:, :, 2] += (2 * place - 1) * (1 - size)
        if not config.turns and config.shift == 0:
            # All of it lies in the image: only interpolation within half a pixel of the edge asks
            # for what is outside.
            padding = "border"
    grid = _grid(theta, height, width).to(images.dtype)
    return F.grid_sample(images, grid, "bilinear", padding, align_corners=False)


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Return where each pixel comes from, x and y [B, H, W, 2], by maps [B, 2, 3].

    As `affine_grid` does, but not by a product of matrices for each image, which takes longer than
    the interpolation. A single product for all would round by how many there are.
    """
    right, down = (
        (2 * torch.arange(side, device=theta.device, dtype=theta.dtype) + 1) / side - 1
        for side in (width, height)
    )
    grid = theta.new_empty(len(theta), height, width, 2)
    for axis in range(2):
        by_right, by_down, offset = theta[:, axis, :, None].unbind(1)
        torch.add(
            (by_right * right)[:, None],
            (by_down * down + offset)[:, :, None],
            out=grid[..., axis],
        )
    return grid
