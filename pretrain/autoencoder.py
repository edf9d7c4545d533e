"""The autoencoder, plain or denoising: restore the clean image from a corrupted one.

Shapes: B rows at hand, C channels, H height, W width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from models.decoders import Decoder
from models.encoders import Encoder
from pretrain.corruption import AugmentCorruption, CorruptionConfig, corrupt
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase

HUBER_DELTA = 0.1
"""Where the Huber loss turns from squared to absolute, in units of the [0, 1] range."""


class AutoencoderConfig(BaseModel):
    """Restore the clean image from a corrupted one (Vincent et al., 2010)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["autoencoder"] = "autoencoder"
    corruption: CorruptionConfig = AugmentCorruption()
    loss: Literal["mse", "bce", "huber"] = Field(
        "mse",
        description="mean over pixels of the squared error, of the cross-entropy of intensities "
        f"taken as probabilities, or of the Huber error (delta {HUBER_DELTA})",
    )


class Autoencoder(Objective):
    """One phase: decoder(encoder(corrupted image)) against the clean image."""

    def __init__(
        self,
        config: AutoencoderConfig,
        encoder: Encoder,
        decoder: Decoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.decoder = decoder

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase("autoencoder", parameters, self.optimizer, self._loss, rates)]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        output = self.decoder(self.encoder(corrupt(self.config.corruption, images, draws)))
        return self._error(output, images), {}

    def _error(self, output: Tensor, images: Tensor) -> Tensor:
        match self.config.loss:
            case "mse":
                return F.mse_loss(output, images)
            case "bce":
                return F.binary_cross_entropy_with_logits(output, images)
            case "huber":
                return F.huber_loss(output, images, delta=HUBER_DELTA)

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals, corrupted inputs and reconstructions in turn; first-layer filters."""
        originals = to_float(images)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        corrupted = corrupt(self.config.corruption, originals, draws)
        output = self.decoder(self.encoder(corrupted))
        restored = torch.sigmoid(output) if self.config.loss == "bce" else output
        rows = zip(
            *(pictures.split(8) for pictures in (originals, corrupted, restored)), strict=True
        )
        return {
            "reconstructions": torch.cat([part for row in rows for part in row]).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }
