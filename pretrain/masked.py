"""The masked autoencoder: restore the cells of an image that its encoder does not get to see.

He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners", for a ViT, whose cells are its
patches; for convolutional encoders Tian et al. 2023, "Designing BERT for Convolutional Networks".
Only visible cells go through the encoder, so that its cost falls with the share that is masked.

Shapes: B rows at hand, C channels, H height, W width; N cells of an image, V of them visible;
P = C * cell * cell values of a cell.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.convnext import ConvNextEncoderConfig
from models.encoders import ConvEncoderConfig, Encoder
from models.masked_decoder import MaskedDecoder
from models.residual import ResidualEncoderConfig
from models.visible import VisibleCells, cut, join, pick
from models.vit import VitEncoderConfig, to_grid, to_tokens
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase

_EPS = 1e-6
_GREY = 0.5


class MaskedDecoderConfig(BaseModel):
    """A light transformer over all cells, whatever the encoder's kind; dropped after training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(96, ge=4, le=8192, multiple_of=4, description="features of each cell")
    depth: int = Field(2, ge=1, le=64, description="blocks")
    heads: int = Field(3, ge=1, le=256, description="they divide the width")

    @model_validator(mode="after")
    def _heads_divide(self) -> "MaskedDecoderConfig":
        if self.width % self.heads:
            raise ValueError(
                f"found width {self.width} with heads {self.heads}: take a width that they divide"
            )
        return self


class MaskedConfig(BaseModel):
    """Restore masked cells from the visible ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["masked"] = "masked"
    mask: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="share of an image's cells that is masked; one is and one is not at least",
    )
    cell: int | None = Field(
        None,
        ge=1,
        description="side in pixels of a cell of a convolutional encoder, a multiple of the "
        "pixels from one position of its last stage to the next; null: just that. Of a ViT the "
        "cells are its patches",
    )
    normalize_target: bool = Field(
        True, description="each cell's pixels less their mean, over their standard deviation"
    )
    transformer: MaskedDecoderConfig = MaskedDecoderConfig()


class Masked(Objective):
    """One phase: the mean squared error of the masked cells' pixels.

    Raises:
        InputError: an encoder that has no cells, or cells that do not fit it or the images; one
            line.
    """

    def __init__(
        self,
        config: MaskedConfig,
        encoder: Encoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
    ) -> None:
        """`seed` is the run's; the decoder's weights are drawn from it."""
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.cell = _cell(config, encoder)
        shape = encoder.input
        self.grid = (shape.height // self.cell, shape.width // self.cell)
        channels, height, _ = encoder.output_shapes[encoder.stage_names[-1]]
        self.decoder = MaskedDecoder(
            channels * (height // self.grid[0]) ** 2,
            shape.channels * self.cell**2,
            self.grid,
            width=config.transformer.width,
            depth=config.transformer.depth,
            heads=config.transformer.heads,
            seed=derive_seed(seed, "decoder"),
        )

    @property
    def num_visible(self) -> int:
        """How many cells of an image are visible: one at least, and not all."""
        cells = self.grid[0] * self.grid[1]
        return min(max(1, cells - round(self.config.mask * cells)), cells - 1)

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        return [
            Phase("masked", list(self.named_parameters()), self.optimizer, self._loss, rates),
        ]

    def networks(self) -> Sequence[nn.Module]:
        """The decoder, and the stages of a ViT; convolutions are changed while they run."""
        if isinstance(self.encoder.config, VitEncoderConfig):
            return [*self.encoder.blocks.values(), self.decoder]
        return [self.decoder]

    def checkpoint_stages(self) -> None:
        """Keep of a ViT only what lies between stages for the backward pass.

        Raises:
            InputError: the encoder is convolutional: its neighbours are not there a second time.
        """
        if not isinstance(self.encoder.config, VitEncoderConfig):
            raise InputError(
                "compute.checkpoint_stages: found true with objective.kind 'masked' and "
                f"encoder.kind {self.encoder.config.kind!r}, whose cells cannot be computed "
                "again by themselves; set it to false, or take encoder.kind vit"
            )
        super().checkpoint_stages()

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        visible, masked = self._draw(draws)
        output = self.decoder(self.encode(images, visible), visible)
        target, _, _ = self._target(images)
        return (pick(output, masked) - pick(target, masked)).square().mean(), {}

    def _draw(self, draws: StepDraws) -> tuple[Tensor, Tensor]:
        """Draw which cells are visible, [B, V], and which masked, [B, N - V]."""
        order = draws.rand("mask", self.grid[0] * self.grid[1]).argsort(1)
        return order[:, : self.num_visible], order[:, self.num_visible :]

    def encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Features [B, V, F] of the visible cells [B, V] of images in [0, 1], from them alone."""
        if isinstance(self.encoder.config, VitEncoderConfig):
            lowest = self.encoder.stage_names[0]
            tokens = pick(to_tokens(self.encoder(images, upto=lowest)), visible)
            # A grid of one row: attention does not ask how the patches lie.
            features = self.encoder.above(lowest, to_grid(tokens, (1, self.num_visible)))
            return to_tokens(features)
        cells = pick(cut(images, self.cell), visible).flatten(0, 1)
        with VisibleCells(visible, self.grid):
            features = self.encoder.of_parts(cells.contiguous(memory_format=torch.channels_last))
        return features.flatten(1).unflatten(0, visible.shape)

    def _target(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the cells' pixels should be, [B, N, P], and the mean and std taken out."""
        pixels = cut(images, self.cell).flatten(2)
        if not self.config.normalize_target:
            return pixels, torch.zeros(()), torch.ones(())
        mean = pixels.mean(2, keepdim=True)
        std = (pixels.var(2, keepdim=True) + _EPS).sqrt()
        return (pixels - mean) / std, mean, std

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals, of what is visible, and of the whole restored; first-layer filters.

        Where the target is normalized, the originals' means and deviations are given back.
        """
        originals = to_float(images)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        visible, masked = self._draw(draws)
        output = self.decoder(self.encode(originals, visible), visible)
        _, mean, std = self._target(originals)
        pixels = cut(originals, self.cell)
        is_masked = torch.zeros(pixels.shape[:2], dtype=torch.bool, device=images.device)
        is_masked = is_masked.scatter(1, masked, True)[..., None, None, None]
        restored = (output.float() * std + mean).view_as(pixels)
        seen, whole = (
            join(torch.where(is_masked, hidden, pixels), self.grid)
            for hidden in (torch.full_like(pixels, _GREY), restored)
        )
        return {
            "reconstructions": in_rows(originals, seen, whole).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }


def _cell(config: MaskedConfig, encoder: Encoder) -> int:
    """Return the side of a cell, checked against encoder and images."""
    shape, spec = encoder.input, encoder.config
    match spec:
        case VitEncoderConfig():
            step = spec.patch_size
            if config.cell not in (None, step):
                raise InputError(
                    f"objective.cell: found {config.cell} with encoder.patch_size {step}; the "
                    "cells of a ViT are its patches: set objective.cell to null"
                )
        case ConvEncoderConfig() | ResidualEncoderConfig():
            step = 2 ** len(spec.widths)
        case ConvNextEncoderConfig():
            step = spec.stem_patch * 2 ** (len(spec.widths) - 1)
        case _:
            raise InputError(
                f"objective.kind: found 'masked' with encoder.kind {spec.kind!r}, whose layers "
                "cannot leave out parts of an image; use encoder.kind vit, conv, residual or "
                "convnext"
            )
    cell = config.cell or step
    if cell % step:
        raise InputError(
            f"objective.cell: found {cell}, but one position of the encoder's last stage stands "
            f"for {step} pixels (encoder.widths); take a multiple of {step}"
        )
    is_vit = isinstance(spec, VitEncoderConfig)
    key = "encoder.patch_size" if is_vit else "objective.cell"
    if shape.height % cell or shape.width % cell:
        raise InputError(
            f"objective.cell: found {cell} pixels, which do not divide images of "
            f"{shape.height}x{shape.width} (height x width); take fewer stages (encoder.widths), "
            "another objective.cell, or other images (data.size)"
        )
    if (shape.height, shape.width) == (cell, cell):
        raise InputError(
            f"{key}: found {cell} pixels, a single cell for the whole image; take "
            + ("smaller patches" if is_vit else "fewer stages (encoder.widths) or a smaller cell")
        )
    if config.normalize_target and shape.channels * cell**2 == 1:
        raise InputError(
            "objective.normalize_target: found true with cells of a single value, of which it "
            "leaves nothing; set it to false"
        )
    return cell
