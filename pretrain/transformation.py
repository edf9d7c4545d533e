"""Affine and projective transformations of images, drawn, applied, and written as numbers.

Shapes: B rows, C channels, H height, W width, P parameters.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

Padding = Literal["reflection", "border", "zeros"]


class AffineConfig(BaseModel):
    """Turn, zoom, shear and move (Zhang et al. 2019, AET-affine)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["affine"] = "affine"
    rotation: float = Field(180.0, ge=0, le=180, description="most, either way, in degrees")
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.7, 1.3), description="smallest and largest magnification"
    )
    shear: float = Field(30.0, ge=0, lt=90, description="most, either way, in degrees")
    shift: float = Field(
        0.2, ge=0, le=1, description="most, either way, as a fraction of height and width"
    )


class ProjectiveConfig(BaseModel):
    """Turn by quarters, zoom, and move each corner by itself (Zhang et al. 2019, AET-project)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["projective"] = "projective"
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.8, 1.2), description="smallest and largest magnification"
    )
    shift: float = Field(
        0.125,
        ge=0,
        lt=0.25,
        description="most that a corner is moved along each axis, as a fraction of the side",
    )


TransformationConfig = Annotated[AffineConfig | ProjectiveConfig, Field(discriminator="kind")]


def parameters_of(config: TransformationConfig) -> int:
    """Return how many numbers a transformation is written as, P."""
    return 6 if isinstance(config, AffineConfig) else 8


def matrices_from(config: TransformationConfig, uniform: Tensor) -> Tensor:
    """Return homographies [B, 3, 3] from uniform numbers [B, 10] in [0, 1).

    Each leads from a point of the transformed image to the point of the image that it shows, both
    as (x, y, 1) with x and y from -1 to 1; its last entry is 1.
    """
    signed = 2 * uniform - 1
    low, high = config.scale
    scale = low + uniform[:, 0] * (high - low)
    match config:
        case AffineConfig():
            angle = signed[:, 1] * math.radians(config.rotation)
            shear = (signed[:, 2] * math.radians(config.shear)).tan()
            cosine, sine = angle.cos() / scale, angle.sin() / scale
            x, y = (2 * config.shift * signed[:, column] for column in (3, 4))
            zero, one = torch.zeros_like(x), torch.ones_like(x)
            rows = [
                [cosine, cosine * shear - sine, x],
                [sine, sine * shear + cosine, y],
                [zero, zero, one],
            ]
            return torch.stack([torch.stack(row, 1) for row in rows], 1)
        case ProjectiveConfig():
            turns = (uniform[:, 1] * 4).floor() * (math.pi / 2)
            cosine, sine = turns.cos() / scale, turns.sin() / scale
            corners = signed.new_tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
            turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
            moved = corners @ turn.transpose(1, 2)
            moved = moved + 2 * config.shift * signed[:, 2:10].unflatten(1, (4, 2))
            return homographies(corners.expand_as(moved), moved)


def homographies(sources: Tensor, targets: Tensor) -> Tensor:
    """Return the homographies [B, 3, 3] that lead from four points to four others, [B, 4, 2] each.

    Their last entry is 1.
    """
    x, y = sources.unbind(2)
    u, v = targets.unbind(2)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    of_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 2)
    of_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 2)
    solved = torch.linalg.solve(torch.cat([of_u, of_v], 1), torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).unflatten(1, (3, 3))


def as_parameters(config: TransformationConfig, matrices: Tensor) -> Tensor:
    """Return the entries of homographies [B, 3, 3] that vary, [B, P]."""
    return matrices.flatten(1)[:, : parameters_of(config)]


def transformed(images: Tensor, matrices: Tensor, padding: Padding) -> Tensor:
    """Return images [B, C, H, W] seen through homographies [B, 3, 3], by bilinear interpolation.

    A pixel of the result at p, from -1 to 1 along each axis, shows the image at the matrix times p.
    """
    height, width = images.shape[2:]
    ys, xs = (
        (2 * torch.arange(side, device=images.device, dtype=matrices.dtype) + 1) / side - 1
        for side in (height, width)
    )
    points = torch.stack(
        [xs.expand(height, -1), ys[:, None].expand(-1, width), xs.new_ones(height, width)], 2
    )
    seen = points.flatten(0, 1) @ matrices.transpose(1, 2)
    grid = (seen[..., :2] / seen[..., 2:]).unflatten(1, (height, width))
    return F.grid_sample(images, grid.to(images.dtype), "bilinear", padding, align_corners=False)
