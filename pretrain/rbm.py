"""One restricted Boltzmann machine, whose hidden units are the encoder."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from torch import Tensor, nn

from models.encoders import Encoder
from pretrain.layer_rbm import RbmConfig, RbmLayer
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters
from training.errors import InputError
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class Rbm(Objective):
    """One phase: the free energy of images against that of the model's samples.

    Raises:
        InputError: an encoder of several stages, or one that is not made of RBMs; one line.
    """

    compared = RbmLayer.compared

    def __init__(
        self,
        config: RbmConfig,
        encoder: Encoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
        *,
        seed: int,
        images: Tensor,
    ) -> None:
        """Make it for an encoder; `images` are some to train on, float [N, C, H, W] in [0, 1]."""
        super().__init__()
        if len(encoder.stage_names) > 1:
            raise InputError(
                f"objective.kind: found 'rbm' with encoder.widths of {len(encoder.stage_names)} "
                "stages, but an RBM is one; give one width, or objective.kind stacked with layer "
                "rbm, which trains each stage in turn"
            )
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        (stage,) = encoder.stage_names
        self.layer = RbmLayer(config, stage, encoder, key="objective", seed=seed, images=images)

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        return [Phase("rbm", list(self.named_parameters()), self.optimizer, self._loss, rates)]

    def networks(self) -> Sequence[nn.Module]:
        """None: the loss takes the weights themselves, and calls no module."""
        return []

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        return self.layer.loss(self.encoder, images, images, draws)

    def after_step(self, step: int) -> None:
        self.layer.after_step(self.encoder, step)

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        return self.layer.facts(self.encoder, to_float(images))

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Originals over reconstructions; samples of the model; filters."""
        originals = to_float(images)
        return {
            **self.layer.preview(self.encoder, originals),
            "samples": self.layer.samples(self.encoder).clamp(0, 1),
            "filters": first_layer_filters(self.encoder),
        }
