"""A variational autoencoder whose error is measured in the features of a GAN's discriminator.

Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric".

Shapes: B rows, C channels, H height, W width, L values of a latent code; *K a stage's features.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.latent import kl_from_standard_normal
from pretrain.adversarial import generator_loss
from pretrain.gan import Gan, Inference
from pretrain.gan_config import PlayersConfig
from pretrain.objective import to_float
from pretrain.pictures import in_rows
from training.randomness import StepDraws
from training.trainable import Batch, Phase


class VaeGanConfig(PlayersConfig):
    """Restore images up to what the discriminator sees in them (Larsen et al. 2016)."""

    kind: Literal["vae_gan"] = "vae_gan"
    stage: str | None = Field(
        None, description="of the discriminator, in whose features images are compared; null: last"
    )
    gamma: float = Field(
        0.1, gt=0, description="weight of the distance beside what the discriminator says"
    )
    beta: float = Field(1.0, gt=0, description="weight of the KL beside the distance")


class VaeGan(Gan):
    """Three phases, in this order: those of a `Gan`, then that of the encoder from images to codes.

    The discriminator judges samples and reconstructions. The generator is to please it with both
    and to restore its features of the image; the encoder is to keep what that takes, and its codes
    near a standard normal. No other player learns from the distance, so that features do not
    shrink to make it small, and the encoder does not learn to please the discriminator.
    """

    config: VaeGanConfig
    inference: Inference

    def phases(self) -> Sequence[Phase]:
        discriminator, generator = super().phases()
        own: list[tuple[str, torch.nn.Parameter]] = []
        others: list[tuple[str, torch.nn.Parameter]] = []
        for name, parameter in generator.parameters:
            (own if name.startswith("inference.") else others).append((name, parameter))
        rates = self.stage_rates.lr_factors(
            self.inference.encoder.stage_names, prefix="inference.encoder.blocks"
        )
        encoder = replace(
            generator, name="encoder", parameters=own, loss=self._infer, lr_factors=rates
        )
        return [discriminator, replace(generator, parameters=others), encoder]

    def _codes(self, inferred: Tensor | None, draws: StepDraws) -> dict[str, Tensor]:
        assert inferred is not None
        return {**super()._codes(inferred, draws), "reconstructed": inferred}

    def _generate(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super()._generate(batch, draws)
        images = to_float(batch["images"])
        with torch.no_grad():
            codes = self._inferred(images, draws)
        assert codes is not None
        real, restored = self._compared(images, codes, draws)
        with self._statistics_kept():
            logits = [self._logits(self._last(features), None) for features in (real, restored)]
        adversarial = generator_loss(self.config.loss, *logits)
        distance = feature_distance(real, restored)
        metrics |= {"adversarial_reconstructed": adversarial, "distance": distance}
        return loss + adversarial + self.config.gamma * distance, metrics

    def _infer(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        mean, log_variance = self.inference(images)
        codes = self._drawn(mean, log_variance, draws)
        distance = feature_distance(*self._compared(images, codes, draws))
        kl = kl_from_standard_normal(mean, log_variance).sum(1).mean()
        return distance + self.config.beta * kl, {"distance": distance, "kl": kl}

    def _compared(self, images: Tensor, codes: Tensor, draws: StepDraws) -> tuple[Tensor, Tensor]:
        """Return the discriminator's features [B, *K] of images and of what codes restore.

        Either is changed alike before the discriminator sees it.
        """
        stage = self.config.stage
        with self._statistics_kept():
            with torch.no_grad():
                real = self.encoder(self._seen(images, draws, "real"), stage)
            restored = self.encoder(self._seen(self.generator(codes), draws, "real"), stage)
        return real, restored

    def _last(self, features: Tensor) -> Tensor:
        stage = self.config.stage
        return features if stage is None else self.encoder.above(stage, features)

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Those of a `Gan`, and originals over reconstructions from the mean of their codes."""
        originals = to_float(images)
        mean, _ = self.inference(originals)
        restored = self.generated(mean)
        return {"reconstructions": in_rows(originals, restored), **super().preview(images)}


def feature_distance(real: Tensor, restored: Tensor) -> Tensor:
    """Return half the squared distance of features [B, *K], the mean over rows.

    Up to a constant it is -log p(real | code) of a normal density of unit variance around what was
    restored, in nats for each image, as is a KL.
    """
    return 0.5 * (real.float() - restored.float()).square().flatten(1).sum(1).mean()
