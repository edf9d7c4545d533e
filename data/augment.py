"""Random changes of whole batches on their device: geometry, then colour, then erasing.

Random numbers are drawn for all G samples of a global batch and sliced to the B rows at hand, so
that the number of ranks and micro-batches changes nothing.

Shapes: G global batch, B rows, C channels, H height, W width.
"""

import dataclasses
import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn import functional as F

_SMALLEST_ERASED_AREA = 0.02
_MOST_ERASED_ASPECT = 3.3


class AugmentConfig(BaseModel):
    """How strongly images are changed. A strength of 0, or (1, 1), turns a change off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizontal_flip: bool = Field(True, description="mirror left and right with chance one half")
    shift: float = Field(
        0.1,
        ge=0,
        le=1,
        description="farthest move along each axis, as a fraction of height or width; whole "
        "pixels unless scale or rotation is on",
    )
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (1.0, 1.0), description="smallest and largest magnification about the middle"
    )
    rotation: float = Field(
        0.0, ge=0, le=180, description="farthest rotation about the middle, either way, in degrees"
    )
    padding: Literal["zeros", "border"] = Field(
        "zeros", description="what moves in from outside: black, or the nearest pixel of the edge"
    )
    brightness: float = Field(
        0.0, ge=0, le=1, description="intensities are multiplied by a factor within 1 ± this"
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=1,
        description="differences from the image's mean are multiplied by a factor within 1 ± this",
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="chance that one rectangle of the image is erased"
    )
    erasing_area: float = Field(
        0.25,
        ge=_SMALLEST_ERASED_AREA,
        le=1,
        description="largest erased share of the image's area; the smallest is 0.02",
    )
    erasing_fill: Literal["zero", "mean"] = Field(
        "zero", description="what an erased rectangle is filled with: black, or the image's mean"
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the smallest must not be above the largest, got {list(value)}")
        return value


@dataclasses.dataclass(frozen=True)
class AugmentParams:
    """What happens to each sample; every tensor has the samples on its first axis."""

    flip: Tensor
    """bool [G]."""
    shift: Tensor
    """Down and right, as fractions of height and width, [G, 2]."""
    scale: Tensor
    """Magnification, [G]."""
    angle: Tensor
    """Counter-clockwise, in radians, [G]."""
    brightness: Tensor
    """Factor, [G]."""
    contrast: Tensor
    """Factor, [G]."""
    erase: Tensor
    """bool [G]."""
    erase_size: Tensor
    """Height and width of the rectangle as fractions of the image's, [G, 2]."""
    erase_place: Tensor
    """Where it lies between the top (left) edge, 0, and the bottom (right) edge, 1, [G, 2]."""

    def rows(self, start: int, stop: int) -> "AugmentParams":
        """The parameters of samples [start, stop)."""
        values = {f.name: getattr(self, f.name)[start:stop] for f in dataclasses.fields(self)}
        return AugmentParams(**values)

    def at(self, samples: Tensor, device: torch.device) -> "AugmentParams":
        """The parameters of some samples, int64 [B], on a device."""
        values = {f.name: getattr(self, f.name)[samples] for f in dataclasses.fields(self)}
        return AugmentParams(**{name: value.to(device) for name, value in values.items()})


class Augment:
    """Applies an `AugmentConfig` to batches."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self._warps = config.scale != (1.0, 1.0) or config.rotation > 0
        self._moves = config.horizontal_flip or config.shift > 0
        self._colours = config.brightness > 0 or config.contrast > 0

    @property
    def is_off(self) -> bool:
        """Whether it leaves every image alone."""
        return not (self._warps or self._moves or self._colours or self.config.erasing > 0)

    def draw(self, n: int, generator: torch.Generator) -> AugmentParams:
        """Draw the parameters of `n` samples on the generator's device.

        A change takes the same numbers from the generator whether it is on or off.
        """
        config = self.config
        uniform = torch.rand(n, 12, generator=generator, device=generator.device)
        signed = 2 * uniform - 1
        low, high = config.scale
        area = _SMALLEST_ERASED_AREA + uniform[:, 8] * (config.erasing_area - _SMALLEST_ERASED_AREA)
        root_aspect = _MOST_ERASED_ASPECT ** (signed[:, 9] / 2)
        root_area = area.sqrt()
        return AugmentParams(
            flip=(uniform[:, 0] < 0.5) & config.horizontal_flip,
            shift=signed[:, 1:3] * config.shift,
            scale=low + uniform[:, 3] * (high - low),
            angle=signed[:, 4] * math.radians(config.rotation),
            brightness=1 + signed[:, 5] * config.brightness,
            contrast=1 + signed[:, 6] * config.contrast,
            erase=uniform[:, 7] < config.erasing,
            erase_size=torch.stack([root_area * root_aspect, root_area / root_aspect], 1),
            erase_place=uniform[:, 10:12],
        )

    def apply(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Change float images [B, C, H, W] in [0, 1]; the result has their shape and range.

        Differentiable in the images. Where everything is off, the images themselves are returned.
        """
        if self._warps:
            images = _warp(images, params, self.config.padding)
        elif self._moves:
            images = _move(images, params, self.config.padding)
        if self._colours:
            images = _colour(images, params)
        if self.config.erasing > 0:
            images = _erase(images, params, self.config.erasing_fill)
        return images


def _move(images: Tensor, params: AugmentParams, padding: str) -> Tensor:
    """Flip, then shift by whole pixels: one gather, far cheaper than interpolation."""
    _, channels, height, width = images.shape
    down, right = _whole_pixels(params.shift, height, width)
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    inside_rows, inside_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    from_columns = torch.where(params.flip[:, None], width - 1 - inside_columns, inside_columns)
    source = (inside_rows[:, :, None] * width + from_columns[:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    moved = moved.view(images.shape)
    if padding == "border":
        return moved
    outside = (inside_rows != rows)[:, :, None] | (inside_columns != columns)[:, None, :]
    return moved.masked_fill(outside[:, None], 0)


def _whole_pixels(fractions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return (
        (fractions[:, 0] * height).round().long(),
        (fractions[:, 1] * width).round().long(),
    )


def _warp(images: Tensor, params: AugmentParams, padding: str) -> Tensor:
    """Flip, scale, rotate and shift by one bilinear interpolation.

    A result's pixel at (x, y), in pixels right and down of the middle, shows the image at
    flip(rotate_back((x, y) - shift) / scale).
    """
    height, width = images.shape[2:]
    cosine, sine = params.angle.cos() / params.scale, params.angle.sin() / params.scale
    mirror = 1 - 2 * params.flip.to(params.scale.dtype)
    # grid_sample counts in half heights and half widths; a rotation needs pixels.
    aspect = height / width
    down, right = 2 * params.shift[:, 0], 2 * params.shift[:, 1]
    x_by_x, x_by_y = mirror * cosine, -mirror * sine * aspect
    y_by_x, y_by_y = sine / aspect, cosine
    theta = torch.stack(
        [
            torch.stack([x_by_x, x_by_y, -(x_by_x * right + x_by_y * down)], 1),
            torch.stack([y_by_x, y_by_y, -(y_by_x * right + y_by_y * down)], 1),
        ],
        dim=1,
    ).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", padding, align_corners=False)


def _per_sample(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).view(-1, 1, 1, 1)


def _colour(images: Tensor, params: AugmentParams) -> Tensor:
    """Contrast about the image's mean, then brightness, then clipping to [0, 1]."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    brightness = _per_sample(params.brightness, images)
    contrast = _per_sample(params.contrast, images)
    return torch.addcmul((1 - contrast) * brightness * mean, images, contrast * brightness).clamp(
        0, 1
    )


def _erase(images: Tensor, params: AugmentParams, fill: str) -> Tensor:
    """Fill a rectangle of whole pixels, at least one and at most the image."""
    height, width = images.shape[2:]
    side = torch.tensor([height, width], device=images.device)
    size = (params.erase_size * side).round().long().clamp(min=1).minimum(side)
    first = (params.erase_place * (side - size + 1)).long()
    last = first + size
    rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
    in_rows = (rows >= first[:, :1]) & (rows < last[:, :1]) & params.erase[:, None]
    in_columns = (columns >= first[:, 1:]) & (columns < last[:, 1:])
    erased = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    if fill == "zero":
        return images.masked_fill(erased, 0)
    return torch.where(erased, images.mean(dim=(1, 2, 3), keepdim=True), images)
