"""The adversarial autoencoder: a discriminator of codes holds them near a standard normal.

Makhzani et al. 2015.

Shapes: B rows, C channels, H height, W width, L values of a code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.decoders import Decoder
from models.discriminators import CodeDiscriminator
from models.encoders import Encoder
from models.head_networks import LinearHead
from models.latent import LatentFeatures
from pretrain.adversarial import (
    AdversarialLossConfig,
    NonSaturating,
    clip_weights,
    discriminator_loss,
    generator_loss,
    told_apart,
)
from pretrain.corruption import CorruptionConfig, NoCorruption, corrupt
from pretrain.gan import PlayerOptimizers
from pretrain.gan_pictures import SAMPLES, fixed_codes
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from pretrain.reconstruction import HUBER_DELTA, ErrorName, as_intensities, errors
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class AdversarialAutoencoderConfig(BaseModel):
    """Restore images from codes that look like draws from a normal (Makhzani et al. 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adversarial_autoencoder"] = "adversarial_autoencoder"
    latent: int = Field(64, ge=1, le=65536, description="dimensions of the code")
    weight: float = Field(
        0.01, gt=0, description="of what the discriminator says of the codes, beside the error"
    )
    loss: AdversarialLossConfig = NonSaturating()
    error: ErrorName = Field(
        "mse",
        description="mean over values of the squared error, of the cross-entropy of values "
        f"taken as probabilities, or of the Huber error (delta {HUBER_DELTA})",
    )
    corruption: CorruptionConfig = NoCorruption()


class AdversarialAutoencoder(Objective):
    """Two phases, in this order: the discriminator's of codes, then the autoencoder's.

    To the discriminator draws from the prior are real, and codes are not. The autoencoder is to
    restore the image and, by its encoder, to make codes that are taken for draws. The code is a
    dense layer on the last stage; the encoder that is exported ends below it.
    """

    def __init__(
        self,
        config: AdversarialAutoencoderConfig,
        encoder: Encoder,
        decoder: Decoder,
        optimizers: PlayerOptimizers,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
    ) -> None:
        """Put the networks together; the autoencoder is trained as the generator is to be."""
        super().__init__()
        self.config = config
        self.optimizers = optimizers
        self.stage_rates = stage_rates
        self.encoder = encoder
        width = torch.Size(encoder.output_shapes[encoder.stage_names[-1]]).numel()
        self.code = LinearHead(width, config.latent, seed=derive_seed(seed, "code"))
        self.features = LatentFeatures(encoder, config.latent, seed=derive_seed(seed, "features"))
        self.decoder = decoder
        self.discriminator = CodeDiscriminator(config.latent, seed=derive_seed(seed, "head"))
        clip_weights(config.loss, self.discriminator)

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        judging: list[tuple[str, torch.nn.Parameter]] = []
        coding: list[tuple[str, torch.nn.Parameter]] = []
        for name, parameter in self.named_parameters():
            (judging if name.startswith("discriminator.") else coding).append((name, parameter))
        return [
            Phase("discriminator", judging, self.optimizers.discriminator, self._discriminate),
            Phase("autoencoder", coding, self.optimizers.generator, self._restore, rates),
        ]

    def _discriminate(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        with torch.no_grad():
            codes = self._encode(corrupt(self.config.corruption, images, draws).images)
        real, fake = self._logits(codes, draws, "prior/discriminator")
        told = told_apart(self.config.loss, real, fake)
        names = ("accuracy_real", "accuracy_fake")
        metrics = {name: right.float().mean() for name, right in zip(names, told, strict=True)}
        return discriminator_loss(self.config.loss, real, fake), metrics

    def _restore(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        clip_weights(self.config.loss, self.discriminator)  # it has just been updated
        images = to_float(batch["images"])
        codes = self._encode(corrupt(self.config.corruption, images, draws).images)
        error = errors(self.config.error, self._decode(codes), images, "mean")
        real, fake = self._logits(codes, draws, "prior/autoencoder")
        adversarial = generator_loss(self.config.loss, real, fake)
        metrics = {"error": error, "adversarial": adversarial}
        return error + self.config.weight * adversarial, metrics

    def _encode(self, images: Tensor) -> Tensor:
        return self.code(self.encoder(images).flatten(1)).float()

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.features(codes))

    def _logits(self, codes: Tensor, draws: StepDraws, purpose: str) -> tuple[Tensor, Tensor]:
        """Return the discriminator's logits of as many draws from the prior, and of the codes."""
        prior = draws.randn(purpose, self.config.latent)
        return self.discriminator(prior), self.discriminator(codes)

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Originals, corrupted inputs, if any, and reconstructions; samples; filters."""
        originals = to_float(images)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        corrupted = corrupt(self.config.corruption, originals, draws).images
        is_clean = isinstance(self.config.corruption, NoCorruption)
        seen = [originals] if is_clean else [originals, corrupted]
        prior = fixed_codes(SAMPLES, self.config.latent, images.device)
        return {
            "reconstructions": in_rows(*seen, self._pictures(self._encode(corrupted))).clamp(0, 1),
            "samples": self._pictures(prior).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }

    def _pictures(self, codes: Tensor) -> Tensor:
        return as_intensities(self.config.error, self._decode(codes).float())
