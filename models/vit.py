"""The small vision transformer, each block of which is a stage with positions.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words". Without a class token: heads pool the
positions. Norms come before attention and perceptron, one more ends the last stage.

Shapes: B batch, W width, N tokens, h x w patches; N = h * w where no patch is left out.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import SpatialDropout, StochasticDepth, make_dropout
from models.errors import ModelError
from models.initialization import GlorotUniform, InitializerConfig
from models.layers import ActivationName, ChannelLayerNorm, make_activation, present
from models.stages import CommonEncoderConfig, Shape, Stage, StageLayers

LEARNED_STD = 0.02
_LONGEST_WAVE = 10_000.0


class VitEncoderConfig(CommonEncoderConfig):
    """Attention among patches: the stages `patches`, `block1`, `block2`, ... of one size."""

    kind: Literal["vit"] = "vit"
    patch_size: int = Field(4, ge=1, le=1024, description="side in pixels; divides the image")
    width: int = Field(192, ge=1, le=8192, description="features of each patch")
    depth: int = Field(6, ge=1, le=64, description="blocks")
    heads: int = Field(3, ge=1, le=256, description="of the attention; they divide the width")
    expansion: int = Field(4, ge=1, le=16, description="hidden units per feature of a perceptron")
    positions: Literal["sincos", "learned"] = Field(
        "sincos", description="added to the patches: fixed sines and cosines, or trained vectors"
    )
    stochastic_depth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that the last block's branches are dropped for a sample; below it "
        "rises linearly from the first block on (Huang et al. 2016)",
    )
    norm: Literal["layer"] = Field("layer", description="each patch over its features")
    activation: ActivationName = "gelu"
    initializer: InitializerConfig | None = GlorotUniform()

    @model_validator(mode="after")
    def _fits_together(self) -> "VitEncoderConfig":
        if self.width % self.heads:
            raise ValueError(
                f"found width {self.width} with heads {self.heads}: take a width that they divide"
            )
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(
                f"found width {self.width} with positions sincos, which need a multiple of 4"
            )
        if isinstance(self.dropout, SpatialDropout):
            raise ValueError("found dropout spatial with kind vit: take plain or alpha")
        if self.spectral_norm:
            raise ValueError(
                "found spectral_norm, which bounds nothing here, as attention has no Lipschitz "
                "constant (Kim et al. 2021): set it to false"
            )
        return self


class TransformerBlock(nn.Module):
    """Attention among tokens, then a perceptron on each: [B, N, W] -> [B, N, W]."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        activation: ActivationName = "gelu",
        dropouts: tuple[nn.Module | None, nn.Module | None] = (None, None),
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Sequential(*present(nn.Linear(width, width), dropouts[0]))
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            *present(
                nn.Linear(width, hidden),
                make_activation(activation),
                nn.Linear(hidden, width),
                dropouts[1],
            )
        )
        self.drop = StochasticDepth(drop_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop(self._attend(self.norm1(tokens)))
        return tokens + self.drop(self.perceptron(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        by_head = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.merge(mixed.transpose(1, 2).flatten(2))


class GridBlock(TransformerBlock):
    """A transformer block on a grid of tokens [B, W, h, w]; h and w may be any."""

    def forward(self, tokens: Tensor) -> Tensor:
        return to_grid(super().forward(to_tokens(tokens)), tokens.shape[2:])


class Patches(nn.Module):
    """Patches, mapped linearly, plus positions: [B, C, h * patch, w * patch] -> [B, W, h, w]."""

    def __init__(self, config: VitEncoderConfig, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        patch = config.patch_size
        self.projection = nn.Conv2d(channels, config.width, patch, patch)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.zeros(1, config.width, *grid))
        else:
            # Not in the state dict: the spec is their only source.
            self.register_buffer("positions", sincos_positions(config.width, grid), False)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images) + self.positions

    @torch.no_grad()
    def draw_positions(self, generator: torch.Generator) -> None:
        """Draw the positions that are trained, where they are."""
        if isinstance(self.positions, nn.Parameter):
            self.positions.normal_(0.0, LEARNED_STD, generator=generator)


def to_tokens(features: Tensor) -> Tensor:
    """[B, W, h, w] -> [B, h * w, W], without a copy where channels are last in memory."""
    return features.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """[B, h * w, W] -> [B, W, h, w], channels last in memory."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


def sincos_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Sines and cosines of rows and of columns, [1, width, h, w]; width a multiple of 4.

    Vaswani et al. 2017, with wavelengths from 2 pi patches on, a quarter of the features for each.
    """
    quarter = width // 4
    rates = torch.exp(-math.log(_LONGEST_WAVE) * torch.arange(quarter) / quarter).view(-1, 1)
    height, columns = grid
    by_row, by_column = rates * torch.arange(height), rates * torch.arange(columns)
    rows = torch.cat([by_row.sin(), by_row.cos()]).view(1, -1, height, 1)
    across = torch.cat([by_column.sin(), by_column.cos()]).view(1, -1, 1, columns)
    shape = (-1, -1, height, columns)
    return torch.cat([rows.expand(shape), across.expand(shape)], dim=1)


def vit_stages(config: VitEncoderConfig, channels: int, height: int, width: int) -> Iterator[Stage]:
    """Yield the stages for images of this shape, the patches first.

    Raises:
        ModelError: patches that do not divide the image.
    """
    patch = config.patch_size
    if height % patch or width % patch:
        fits = [side for side in range(1, 33) if height % side == width % side == 0]
        raise ModelError(
            f"encoder.patch_size: found {patch}, which does not divide images of {height}x{width} "
            f"(height x width): take one of {', '.join(map(str, fits))}, or scale the images "
            "(data.size)"
        )
    grid = (height // patch, width // patch)
    shape: Shape = (config.width, *grid)
    yield "patches", StageLayers(Patches(config, channels, grid)), shape
    for number in range(1, config.depth + 1):
        layers: list[nn.Module] = [
            GridBlock(
                config.width,
                config.heads,
                hidden=config.expansion * config.width,
                activation=config.activation,
                dropouts=(make_dropout(config.dropout), make_dropout(config.dropout)),
                drop_rate=config.stochastic_depth * number / config.depth,
            )
        ]
        if number == config.depth:
            layers.append(ChannelLayerNorm(config.width))
        yield f"block{number}", StageLayers(*layers), shape
