"""A stage trained as the code of an autoencoder of its own input.

Bengio et al. 2007, "Greedy Layer-Wise Training of Deep Networks"; denoising: Vincent et al. 2010,
"Stacked Denoising Autoencoders".

Shapes: B rows at hand; *I those of the stage's input without the batch axis, *O of its output.
"""

from typing import Literal

from torch import Tensor, nn

from models.encoders import Encoder
from models.residual import ResidualEncoderConfig
from pretrain.contraction import EstimatedContraction, check_contraction, closed_form_norm
from pretrain.corruption import (
    AugmentCorruption,
    BlocksCorruption,
    CorruptionConfig,
    MaskingCorruption,
    NoCorruption,
    SaltAndPepperCorruption,
    corrupt,
)
from pretrain.layer import Layer
from pretrain.pictures import in_rows
from pretrain.reconstruction import (
    ReconstructionConfig,
    as_intensities,
    check_emphasis,
    coded,
    restoration_error,
)
from pretrain.sparsity import check_sparsity
from training.errors import InputError
from training.randomness import StepDraws


class AutoencoderLayerConfig(ReconstructionConfig):
    """Restore the stage's clean input from a corrupted one (Vincent et al., 2010)."""

    kind: Literal["autoencoder"] = "autoencoder"
    corruption: CorruptionConfig = MaskingCorruption()


class AutoencoderLayer(Layer):
    """The error of the stage's input, restored from its output, and what is added.

    Augmentation changes the images, and the stages below pass it on; every other corruption
    changes the stage's input. The decoder is the part of the encoder's mirror image that undoes
    the stage, so that all layers' decoders together are that of the whole.
    """

    def __init__(
        self,
        config: AutoencoderLayerConfig,
        stage: str,
        encoder: Encoder,
        decoder: nn.Sequential,
        *,
        key: str,
    ) -> None:
        """Make what the stage needs beside itself.

        Args:
            config: how to train it.
            stage: its name.
            encoder: which has it.
            decoder: from its output to its input; raw values for the lowest stage, behind the
                encoder's activation for the others.
            key: of `config`, for complaints.
        Raises:
            InputError: terms that do not fit the encoder; one line.
        """
        super().__init__(stage)
        self.is_lowest = stage == encoder.stage_names[0]
        _check(config, encoder, key=key, stage=stage)
        self.config = config
        self.error = config.loss
        self.differentiates_twice = isinstance(config.contraction, EstimatedContraction)
        self.decoder = decoder
        # Cross-entropy takes logits: what the last activation, a sigmoid, is given.
        self._activation: nn.Module | None = None
        if config.loss == "bce" and not self.is_lowest:
            *layers, self._activation = decoder
            self.decoder = nn.Sequential(*layers)
        if isinstance(config.corruption, AugmentCorruption):
            self.augment = config.corruption.augment

    def loss(
        self, encoder: Encoder, inputs: Tensor, seen: Tensor, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.augment is None:
            corrupted, hit = corrupt(self.config.corruption, inputs, draws)
        else:
            corrupted, hit = seen, None
        code, added, metrics = coded(
            self.config,
            lambda below: self.encode(encoder, below),
            corrupted,
            draws,
            code_shape=encoder.output_shapes[self.stage],
            exact_norm=lambda code: closed_form_norm(encoder, code, self.stage),
        )
        error = restoration_error(self.config, self.decoder(code), inputs, hit)
        if metrics:
            metrics["error"] = error
        return error + added, metrics

    def decode(self, encoder: Encoder, code: Tensor) -> Tensor:
        output = self.decoder(code)
        return output if self._activation is None else self._activation(output)

    def networks(self) -> list[nn.Module]:
        return [self.decoder]

    def preview(self, encoder: Encoder, inputs: Tensor) -> dict[str, Tensor]:
        """Of the lowest stage: rows of images, of what it sees and of what it restores in turn."""
        if not self.is_lowest:
            return {}
        draws = StepDraws(0, 0, inputs.device, len(inputs), 0, len(inputs))
        corrupted, _ = corrupt(self.config.corruption, inputs, draws)
        output = self.decode(encoder, self.encode(encoder, corrupted))
        restored = as_intensities(self.config.loss, output)
        is_clean = isinstance(self.config.corruption, NoCorruption)
        shown = [inputs] if is_clean else [inputs, corrupted]
        return {"reconstructions": in_rows(*shown, restored).clamp(0, 1)}


def _check(config: AutoencoderLayerConfig, encoder: Encoder, *, key: str, stage: str) -> None:
    """Refuse terms that do not fit the encoder, or not the values that its stages give."""
    check_emphasis(config, key=key)
    check_sparsity(config.sparsity, encoder, key=key, stage=stage)
    check_contraction(config.contraction, encoder, key=key, by_stage=True)
    spec = encoder.config
    if isinstance(spec, ResidualEncoderConfig) and spec.activation_order == "pre":
        raise InputError(
            "encoder.activation_order: found 'pre' with objective.kind 'stacked', whose decoders "
            "end in an activation, while these stages give what comes before it; use post"
        )
    is_lowest = stage == encoder.stage_names[0]
    if (
        isinstance(config.corruption, BlocksCorruption)
        and not is_lowest
        and len(encoder.output_shapes[stage]) == 1
    ):
        raise InputError(
            f"{key}.corruption.kind: found 'blocks' with encoder.kind {spec.kind!r}, whose values "
            "have no positions above the lowest stage's images; use masking or gaussian"
        )
    activation = spec.activation
    if is_lowest or activation == "sigmoid":
        return
    if isinstance(config.corruption, SaltAndPepperCorruption):
        raise InputError(
            f"{key}.corruption.kind: found 'salt_and_pepper' with encoder.activation "
            f"{activation!r}, whose values have no least and largest one to set them to; use "
            "masking or gaussian, or encoder.activation sigmoid"
        )
    if config.loss == "bce":
        raise InputError(
            f"{key}.loss: found 'bce' with encoder.activation {activation!r}, whose values are no "
            "probabilities; use mse above the lowest stage, or encoder.activation sigmoid"
        )
