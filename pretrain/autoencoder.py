"""The autoencoder, plain or with any of the classical terms: restore the image, by a good code.

Shapes: B rows at hand, C channels, H height, W width; K values of the code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment import Augment
from models.decoders import Decoder
from models.encoders import Encoder
from models.heads import pool_to_grid
from pretrain.agreement import AgreementConfig, NoAgreement, disagreement_of
from pretrain.contraction import (
    ClosedFormContraction,
    ContractionConfig,
    EstimatedContraction,
    NoContraction,
    check_contraction,
    closed_form_norm,
    estimated_norm,
)
from pretrain.corruption import AugmentCorruption, CorruptionConfig, chooses_pixels, corrupt
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from pretrain.sparsity import (
    NoSparsity,
    SparsityConfig,
    active_share,
    check_sparsity,
    sparsify,
)
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase

HUBER_DELTA = 0.1
"""Where the Huber loss turns from squared to absolute, in units of the [0, 1] range."""


class EmphasisConfig(BaseModel):
    """Weights of the error on corrupted and on other pixels (Vincent et al. 2010, section 4.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corrupted: float = Field(1.0, ge=0, description="alpha")
    others: float = Field(1.0, ge=0, description="beta")


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
    emphasis: EmphasisConfig = EmphasisConfig()
    sparsity: SparsityConfig = NoSparsity()
    contraction: ContractionConfig = NoContraction()
    agreement: AgreementConfig = NoAgreement()


class Autoencoder(Objective):
    """One phase: decoder(encoder(corrupted image)) against the clean image, and what is added.

    Raises:
        InputError: terms that do not fit the encoder or the corruption; one line.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        encoder: Encoder,
        decoder: Decoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
    ) -> None:
        super().__init__()
        _check_emphasis(config)
        check_sparsity(config.sparsity, encoder)
        check_contraction(config.contraction, encoder)
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.decoder = decoder

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase("autoencoder", parameters, self.optimizer, self._loss, rates)]

    def networks(self) -> Sequence[nn.Module]:
        """All, but for an encoder that is differentiated twice: the compiler cannot."""
        if isinstance(self.config.contraction, EstimatedContraction):
            return [self.decoder]
        return super().networks()

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        corrupted, hit = corrupt(self.config.corruption, images, draws)
        code, added, metrics = self._encode(corrupted, draws)
        code, sparsity = sparsify(self.config.sparsity, code)
        if not isinstance(self.config.sparsity, NoSparsity):
            metrics["active_share"] = active_share(code)
        if sparsity is not None:
            added, metrics["sparsity"] = added + sparsity, sparsity
        if not isinstance(self.config.agreement, NoAgreement):
            disagreement = self._disagreement(images, draws)
            added, metrics["disagreement"] = added + disagreement, disagreement
        error = self._error(self.decoder(code), images, hit)
        if metrics:
            metrics["error"] = error
        return error + added, metrics

    def _encode(
        self, images: Tensor, draws: StepDraws
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """Return the code of images, with the contractive term and its norm."""
        match self.config.contraction:
            case NoContraction():
                return self.encoder(images), 0.0, {}
            case ClosedFormContraction(weight=weight):
                code = self.encoder(images)
                norm = closed_form_norm(self.encoder, code).mean()
                return code, weight * norm, {"jacobian_norm": norm}
            case EstimatedContraction() as config:
                # Second derivatives in a short precision are noise.
                with torch.autocast(images.device.type, enabled=False):
                    code, penalty, metrics = self._estimate(config, images, draws)
                return code, penalty, metrics

    def _estimate(
        self, config: EstimatedContraction, images: Tensor, draws: StepDraws
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        shape = self.encoder.output_shapes[self.encoder.stage_names[-1]]
        vectors = draws.randn("contraction", config.samples, *shape).transpose(0, 1)
        code, norms, products = estimated_norm(self.encoder, images, vectors)
        norm = norms.mean()
        metrics = {"jacobian_norm": norm}
        penalty = config.weight * norm
        if config.higher_order > 0:
            noise = config.noise * draws.randn("contraction/noise", *images.shape[1:])
            _, _, nearby = estimated_norm(self.encoder, images + noise, vectors)
            change = (products - nearby).square().flatten(2).sum(2).mean()
            metrics["jacobian_change"] = change
            penalty = penalty + config.weight * config.higher_order * change
        return code, penalty, metrics

    def _disagreement(self, images: Tensor, draws: StepDraws) -> Tensor:
        config = self.config.agreement
        assert not isinstance(config, NoAgreement)
        augment = Augment(config.augment)
        views = []
        for view in ("one", "other"):
            params = augment.draw(draws.global_size, draws.generator(f"agreement/{view}"))
            seen = augment.apply(images, params.rows(draws.start, draws.stop))
            views.append(pool_to_grid(self.encoder(seen), config.grid))
        return disagreement_of(config, *views)

    def _error(self, output: Tensor, images: Tensor, hit: Tensor | None) -> Tensor:
        emphasis = self.config.emphasis
        if emphasis.corrupted == emphasis.others or hit is None:
            return self._pixel_errors(output, images, "mean")
        weights = torch.where(hit, emphasis.corrupted, emphasis.others)
        return (weights * self._pixel_errors(output, images, "none")).mean()

    def _pixel_errors(self, output: Tensor, images: Tensor, reduction: str) -> Tensor:
        match self.config.loss:
            case "mse":
                return F.mse_loss(output, images, reduction=reduction)
            case "bce":
                return F.binary_cross_entropy_with_logits(output, images, reduction=reduction)
            case "huber":
                return F.huber_loss(output, images, reduction=reduction, delta=HUBER_DELTA)

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals, corrupted inputs and reconstructions in turn; first-layer filters."""
        originals = to_float(images)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        corrupted = corrupt(self.config.corruption, originals, draws).images
        code, _ = sparsify(self.config.sparsity, self.encoder(corrupted))
        output = self.decoder(code)
        restored = torch.sigmoid(output) if self.config.loss == "bce" else output
        return {
            "reconstructions": in_rows(originals, corrupted, restored).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }


def _check_emphasis(config: AutoencoderConfig) -> None:
    """Refuse an emphasis where no pixels are chosen to be corrupted, or on nothing at all."""
    emphasis = config.emphasis
    if emphasis.corrupted == emphasis.others == 0:
        raise InputError("objective.emphasis: found 0 for all pixels; give one of them a weight")
    if emphasis.corrupted != emphasis.others and not chooses_pixels(config.corruption):
        raise InputError(
            f"objective.emphasis: found {emphasis.corrupted:g} and {emphasis.others:g} with "
            f"objective.corruption.kind {config.corruption.kind!r}, which chooses no pixels; use "
            "masking or salt_and_pepper, or equal weights"
        )
