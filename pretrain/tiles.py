"""Tiles of images that tell of their content alone: apart from each other, each normalized, grey.

What the tasks on tiles have in common against short-cuts (Doersch et al. 2015, section 3.1; Noroozi
& Favaro 2016, section 4.2): a gap and a jitter between tiles, so that lines do not go on from one
to the next; each tile with the same mean and deviation; and one channel, so that the lens's
chromatic aberration does not tell where in the picture a tile lay.

Shapes: B rows at hand, S tiles a side, T = S * S tiles of an image, C channels, H height, W width;
h, w sides of a tile.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder, InputContract
from models.visible import join
from pretrain.pictures import in_rows
from pretrain.task_head import TaskHead
from training.errors import InputError
from training.randomness import StepDraws

_SMALLEST = 4
_GREY = 0.5
# In the [0, 1] range: noise of a tile that is nearly even is not blown up to a picture.
_LEAST_STD = 1 / 64

Colours = Literal["drop", "project", "keep"]


class TilesConfig(BaseModel):
    """How tiles are cut out of the cells of an image, of which there are so many a side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gap: int | None = Field(
        None,
        ge=0,
        description="least pixels between two tiles; null: an eighth of a cell, or 1",
    )
    jitter: int | None = Field(
        None,
        ge=0,
        description="pixels by which each tile is moved at random in its cell; null: as gap",
    )
    colours: Colours = Field(
        "drop",
        description="of images with several channels: drop all but one at random in each tile; "
        "project (of RGB) green against magenta onto grey; or keep them, with the short-cut that "
        "lenses leave",
    )


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of images of one size lie.

    Attributes:
        config: what was asked for.
        contract: of the images.
        cells: S.
        cell: height and width of a cell, in pixels.
        jitter: pixels by which a tile moves in its cell.
        size: h and w.
    """

    config: TilesConfig
    contract: InputContract
    cells: int
    cell: tuple[int, int]
    jitter: int
    size: tuple[int, int]

    @staticmethod
    def of(config: TilesConfig, contract: InputContract, cells: int, *, key: str) -> "Tiling":
        """Return the tiling of images into so many cells a side.

        Args:
            key: what says how many, for the message.
        Raises:
            InputError: the tiles would be too small, or colours that the images have not; one line.
        """
        height, width = contract.height, contract.width
        rows, columns = height // cells, width // cells
        eighth = max(1, min(rows, columns) // 8)
        gap = eighth if config.gap is None else config.gap
        jitter = eighth if config.jitter is None else config.jitter
        size = (rows - gap - jitter, columns - gap - jitter)
        if min(size) < _SMALLEST:
            raise InputError(
                f"{key}: found {cells}x{cells} cells on images of {height}x{width} (height x "
                f"width), each of {rows}x{columns} pixels, of which objective.tiles.gap {gap} and "
                f"objective.tiles.jitter {jitter} leave a tile of "
                f"{max(size[0], 0)}x{max(size[1], 0)}; {_SMALLEST} a side are the least: take "
                f"{'fewer cells, ' if key == 'objective.grid' else ''}a smaller gap, or larger "
                "images (data.size)"
            )
        if config.colours == "project" and contract.channels not in (1, 3):
            raise InputError(
                f"objective.tiles.colours: found 'project' with images of {contract.channels} "
                "channels, which have no green and magenta; use drop or keep"
            )
        return Tiling(config, contract, cells, (rows, columns), jitter, size)

    def cut(self, images: Tensor, draws: StepDraws) -> Tensor:
        """Return the tiles of float images [B, C, H, W], [B, T, C, h, w], row by row.

        Each has the mean and the deviation that the encoder takes for those of images.
        """
        tiles = self._grey(self._at(images, draws), draws)
        centred = tiles - tiles.mean((3, 4), keepdim=True)
        std = centred.square().mean((2, 3, 4), keepdim=True).sqrt().clamp_min(_LEAST_STD)
        like = (1, 1, -1, 1, 1)
        usual_std = tiles.new_tensor(self.contract.std).view(like)
        usual_mean = tiles.new_tensor(self.contract.mean).view(like)
        return centred / std * usual_std + usual_mean

    def _at(self, images: Tensor, draws: StepDraws) -> Tensor:
        """Cut the tiles out, each at its place."""
        device, count = images.device, self.cells**2
        cells = torch.arange(count, device=device)
        corners = torch.stack([cells // self.cells, cells % self.cells], 1)
        moved = draws.randint("tiles/jitter", self.jitter + 1, count, 2)
        first = corners * torch.tensor(self.cell, device=device) + moved
        rows, columns = (
            first[..., axis, None] + torch.arange(self.size[axis], device=device) for axis in (0, 1)
        )
        places = rows[..., :, None] * images.shape[3] + columns[..., None, :]
        flat = images.flatten(2)
        index = places.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).unflatten(2, (count, *self.size)).transpose(1, 2)

    def _grey(self, tiles: Tensor, draws: StepDraws) -> Tensor:
        """Take out of tiles [B, T, C, h, w] the colours that are to be."""
        channels = tiles.shape[2]
        if channels == 1 or self.config.colours == "keep":
            return tiles
        if self.config.colours == "project":
            # What is left of a colour has no part along (-1, 2, -1).
            axis = tiles.new_tensor([-1.0, 2.0, -1.0]).div_(6**0.5).view(3, 1, 1)
            return tiles - (tiles * axis).sum(2, keepdim=True) * axis
        kept = draws.randint("tiles/colours", channels, tiles.shape[1])
        is_kept = torch.arange(channels, device=tiles.device) == kept[..., None]
        # All channels of the kept one's mean, so that the normalization takes the others to 0.
        return torch.where(is_kept[..., None, None], tiles, tiles.mean((3, 4), keepdim=True))


def features_of(encoder: Encoder, tiles: Tensor, head: TaskHead) -> Tensor:
    """Return the pooled features of tiles [B, T, C, h, w], each seen by itself, [B, T, D]."""
    each = tiles.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return head.pool(encoder.of_parts(each)).unflatten(0, tiles.shape[:2])


def shown(tiling: Tiling, images: Tensor) -> Tensor:
    """Return rows of float images [N, C, H, W] and of their tiles on grey, each in its cell."""
    draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
    tiles = tiling.cut(images, draws)
    apart = [total - own for total, own in zip(tiling.cell, tiling.size, strict=True)]
    framed = F.pad(tiles, (0, apart[1], 0, apart[0]), value=_GREY)
    whole = join(framed, (tiling.cells, tiling.cells))
    down, right = images.shape[2] - whole.shape[2], images.shape[3] - whole.shape[3]
    return in_rows(images, F.pad(whole, (0, right, 0, down), value=_GREY)).clamp(0, 1)
