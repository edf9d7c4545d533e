"""The autoencoder, plain or with any of the classical terms: restore the image, by a good code.

Shapes: B rows at hand, C channels, H height, W width; K values of the code.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from models.decoders import Decoder
from models.encoders import Encoder
from pretrain.agreement import AgreementConfig, NoAgreement, disagreement
from pretrain.contraction import EstimatedContraction, check_contraction, closed_form_norm
from pretrain.corruption import AugmentCorruption, CorruptionConfig, NoCorruption, corrupt
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from pretrain.reconstruction import (
    ReconstructionConfig,
    as_intensities,
    check_emphasis,
    coded,
    restoration_error,
)
from pretrain.sparsity import check_sparsity, sparsify
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class AutoencoderConfig(ReconstructionConfig):
    """Restore the clean image from a corrupted one (Vincent et al., 2010)."""

    kind: Literal["autoencoder"] = "autoencoder"
    corruption: CorruptionConfig = AugmentCorruption()
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
        check_emphasis(config, key="objective")
        check_sparsity(config.sparsity, encoder, key="objective")
        check_contraction(config.contraction, encoder, key="objective")
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
        if not isinstance(self.config.agreement, NoAgreement):
            term = disagreement(self.config.agreement, self.encoder, images, draws)
            added, metrics["disagreement"] = added + term, term
        error = restoration_error(self.config, self.decoder(code), images, hit)
        if metrics:
            metrics["error"] = error
        return error + added, metrics

    def _encode(
        self, images: Tensor, draws: StepDraws
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        """Return the code that is decoded, what is added to the error, and metrics."""
        return coded(
            self.config,
            self.encoder,
            images,
            draws,
            code_shape=self.encoder.output_shapes[self.encoder.stage_names[-1]],
            exact_norm=lambda code: closed_form_norm(self.encoder, code),
        )

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals, corrupted inputs, if any, and reconstructions; first-layer filters."""
        originals = to_float(images)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        corrupted = corrupt(self.config.corruption, originals, draws).images
        code, _ = sparsify(self.config.sparsity, self.encoder(corrupted))
        output = self.decoder(code)
        restored = as_intensities(self.config.loss, output)
        is_clean = isinstance(self.config.corruption, NoCorruption)
        seen = [originals] if is_clean else [originals, corrupted]
        return {
            "reconstructions": in_rows(*seen, restored).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }
