"""Greedy layer-wise training: one stage of the encoder after another, on what those below give.

Hinton et al. 2006, "A Fast Learning Algorithm for Deep Belief Nets"; Bengio et al. 2007, "Greedy
Layer-Wise Training of Deep Networks"; Vincent et al. 2010, "Stacked Denoising Autoencoders".

Shapes: B rows at hand, C channels, H height, W width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn

from data.batches import Batches
from models.encoders import Encoder
from pretrain.corruption import CorruptionConfig, NoCorruption, corrupt
from pretrain.layer import Layer
from pretrain.layer_autoencoder import AutoencoderLayer, AutoencoderLayerConfig
from pretrain.layer_rbm import RbmConfig, RbmLayer
from pretrain.objective import Objective, to_float
from pretrain.pictures import first_layer_filters, in_rows
from pretrain.reconstruction import ErrorName, as_intensities, errors
from pretrain.stage_inputs import Below, StageInputs, features_at_rest
from pretrain.views import augmented
from training.errors import InputError
from training.loop import BatchSource
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase, PhaseLoss

WHOLE = "whole"
"""Name of the phase in which all stages are trained together."""

LayerConfig = Annotated[AutoencoderLayerConfig | RbmConfig, Field(discriminator="kind")]
Share = Annotated[float, Field(gt=0)]


class WholeConfig(BaseModel):
    """All stages and their decoders at last, as one deep autoencoder (Hinton & Salakhutdinov)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        0.0, ge=0, lt=1, description="of the run's steps, its last ones; 0: not at all"
    )
    corruption: CorruptionConfig = NoCorruption()


class StackedConfig(BaseModel):
    """Train the encoder's stages one after another, each on the output of those below."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["stacked"] = "stacked"
    layer: LayerConfig | tuple[LayerConfig, ...] = Field(
        AutoencoderLayerConfig(),
        description="how a stage is trained: one for all, or a list of one for each, lowest first",
    )
    upto: str | None = Field(
        None,
        description="the last stage that is trained by itself; null: the topmost. Those above are "
        "trained with the whole alone",
    )
    shares: tuple[Share, ...] | None = Field(
        None,
        description="how the steps before those of the whole are divided among the stages, lowest "
        "first, in any unit; null: equally",
    )
    keep_training_lower: bool = Field(
        False,
        description="let a stage go on training, by its own loss, while those above are trained; "
        "false: it is frozen",
    )
    whole: WholeConfig = WholeConfig()
    cache_gib: float = Field(
        2.0,
        ge=0,
        description="most memory, per rank, for what frozen stages give for all images: in float32 "
        "where that fits, else in float16, else nothing is kept and they run in every step",
    )

    def layer_of(self, number: int) -> tuple[str, AutoencoderLayerConfig | RbmConfig]:
        """Return the key and the config of a stage's layer, counted from 0."""
        if isinstance(self.layer, tuple):
            return f"objective.layer.{number}", self.layer[number]
        return "objective.layer", self.layer


def check_stack(config: StackedConfig, encoder: Encoder) -> None:
    """Refuse a stack that the encoder has not as many stages for.

    Raises:
        InputError: names the keys; one line.
    """
    names = encoder.stage_names
    stages = f"the encoder's {len(names)} stage(s) {', '.join(names)}"
    if isinstance(config.layer, tuple) and len(config.layer) != len(names):
        raise InputError(
            f"objective.layer: found a list of {len(config.layer)} for {stages}; give one layer "
            "for each, or a single one for all"
        )
    if config.upto is not None and config.upto not in names:
        raise InputError(f"objective.upto: found {config.upto!r}, which is none of {stages}")
    if config.upto not in (None, names[-1]) and config.whole.share == 0:
        raise InputError(
            f"objective.upto: found {config.upto!r} with objective.whole.share 0, so that the "
            f"stages above would stay as they were drawn; give {names[-1]}, or a share above 0"
        )
    count = len(greedy_stages(config, encoder))
    if config.shares is not None and len(config.shares) != count:
        raise InputError(
            f"objective.shares: found {len(config.shares)} for {count} stage(s) that are trained "
            f"one after another; give {count}, or null for equal ones"
        )


def greedy_stages(config: StackedConfig, encoder: Encoder) -> list[str]:
    """Return the stages that are trained by themselves, lowest first."""
    names = encoder.stage_names
    return names if config.upto is None else names[: names.index(config.upto) + 1]


class Stacked(Objective):
    """A phase for each stage, one after another, each named as its stage; then that of the whole.

    In a stage's phase nothing below it moves: those stages get no gradient, and their batch norm
    keeps its statistics.

    Raises:
        InputError: from `phases`: too few steps; one line.
    """

    def __init__(
        self,
        config: StackedConfig,
        encoder: Encoder,
        layers: Sequence[Layer],
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
    ) -> None:
        """Make it of a layer for each stage of the encoder, lowest first, after `check_stack`."""
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.layers = nn.ModuleDict({layer.stage: layer for layer in layers})
        self.compared = {name for layer in layers for name in layer.compared}
        self._greedy = greedy_stages(config, encoder)
        self._steps_taken = 0
        for layer in layers[len(self._greedy) :]:  # of these only the decoders are trained
            layer.requires_grad_(False)
            for parameter in layer.unrolled():
                parameter.requires_grad_(True)

    # ------------------------------------------------------------ phases

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        phases = [
            Phase(name, self._trained_in(name), self.optimizer, self._loss_of(name), rates, span)
            for name, span in self._spans().items()
        ]
        for phase in phases:
            if self.total_steps and not phase.steps(self.total_steps):
                raise InputError(
                    f"steps: found {self.total_steps}, of which the phase {phase.name!r} of "
                    "objective.kind 'stacked' gets none; take more steps, or other "
                    "objective.shares and objective.whole.share"
                )
        return phases

    def _spans(self) -> dict[str, tuple[float, float]]:
        """Return from which share of the run to which each phase is trained."""
        shares = self.config.shares or [1.0] * len(self._greedy)
        end = 1.0 - self.config.whole.share
        inner = [end * part / sum(shares) for part in list(accumulate(shares))[:-1]]
        bounds = [0.0, *inner, end]
        stops = [end] * len(self._greedy) if self.config.keep_training_lower else bounds[1:]
        spans = dict(zip(self._greedy, zip(bounds, stops, strict=False), strict=True))
        return spans | ({WHOLE: (end, 1.0)} if self.config.whole.share else {})

    def _newest(self, step: int) -> str:
        """Return the phase that began last at a step."""
        starts = {name: round(span[0] * self.total_steps) for name, span in self._spans().items()}
        return [name for name, start in starts.items() if start <= step][-1]

    def _begun(self, step: int) -> list[str]:
        """Return the stages that were trained by themselves up to a step, or are in it."""
        newest = self._newest(step)
        return self._greedy if newest == WHOLE else self._greedy[: self._greedy.index(newest) + 1]

    def _trained_in(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        layers = list(self._layers())
        if phase == WHOLE:
            own = {*self.encoder.parameters(), *(p for one in layers for p in one.unrolled())}
        else:
            layer = self._layer(phase)
            own = {*layer.block(self.encoder).parameters(), *layer.trained()}
        return [(name, p) for name, p in self.named_parameters() if p in own]

    def _layers(self) -> Iterator[Layer]:
        for layer in self.layers.values():
            assert isinstance(layer, Layer)
            yield layer

    def _layer(self, stage: str) -> Layer:
        layer = self.layers[stage]
        assert isinstance(layer, Layer)
        return layer

    # ------------------------------------------------------------ losses

    def _loss_of(self, phase: str) -> PhaseLoss:
        if phase == WHOLE:
            return self._whole_loss
        layer = self._layer(phase)

        def loss(batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
            own = replace(draws, seed=derive_seed(draws.seed, phase))
            inputs, seen = self._inputs(layer, batch, own)
            return layer.loss(self.encoder, inputs, seen, own)

        return loss

    def _inputs(self, layer: Layer, batch: Batch, draws: StepDraws) -> tuple[Tensor, Tensor]:
        """Return the input of a layer's stage, and what the stage is to see."""
        images = to_float(batch["images"]) if "images" in batch else None
        if "features" in batch:
            inputs = _as_activations(batch["features"])
        else:
            assert images is not None
            inputs = self._below(layer.stage, images)
        if layer.augment is None:
            return inputs, inputs
        assert images is not None
        seen = augmented(layer.augment, images, draws, "augment")
        return inputs, self._below(layer.stage, seen)

    def _below(self, stage: str, images: Tensor) -> Tensor:
        """Return the input of a stage: images, or the features of the stage below."""
        number = self.encoder.stage_names.index(stage)
        if number == 0:
            return images
        return features_at_rest(self.encoder, self.encoder.stage_names[number - 1], images)

    def _whole_loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        seen = corrupt(self.config.whole.corruption, images, draws).images
        output = self._restore(seen, self.encoder.stage_names[-1])
        return errors(self._error, output, images, "mean"), {}

    @property
    def _error(self) -> ErrorName:
        return self._layer(self.encoder.stage_names[0]).error

    def _restore(self, images: Tensor, stage: str) -> Tensor:
        """Return what the decoders make of the features of `stage`: raw images."""
        output = self.encoder(images, upto=stage)
        for name in reversed(self.encoder.stage_names[: self.encoder.stage_names.index(stage) + 1]):
            output = self._layer(name).decode(self.encoder, output)
        return output

    # ------------------------------------------------------------ around the steps

    def read(self, batches: Batches) -> BatchSource:
        return StageInputs(batches, self, self.encoder, limit_gib=self.config.cache_gib)

    def below(self, step: int) -> Below | None:
        """Return which frozen features a step needs beside, or in the place of, its images."""
        phase = self._newest(step)
        if self.config.keep_training_lower or phase in (WHOLE, self._greedy[0]):
            return None
        below = self._greedy[self._greedy.index(phase) - 1]
        return Below(below, images=self._layer(phase).augment is not None)

    def after_step(self, step: int) -> None:
        self._steps_taken = step + 1
        if self._newest(step) == WHOLE:
            return
        begun = self._begun(step)
        for stage in begun if self.config.keep_training_lower else begun[-1:]:
            self._layer(stage).after_step(self.encoder, step)
        if self._newest(step + 1) == WHOLE:
            for layer in self._layers():
                layer.start_unrolled(self.encoder)

    def networks(self) -> Sequence[nn.Module]:
        """Each stage and the layers' networks; no stage that is differentiated twice."""
        stages = [
            layer.block(self.encoder) for layer in self._layers() if not layer.differentiates_twice
        ]
        return [*stages, *(network for layer in self._layers() for network in layer.networks())]

    # ------------------------------------------------------------ what there is to see

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """Each begun layer's own pictures; rows of originals and of what is restored of them.

        There is a row for every stage from which the decoders lead back to the image.
        """
        originals = to_float(images)
        step = max(0, self._steps_taken - 1)
        begun = self._begun(step)
        pictures = {"filters": first_layer_filters(self.encoder)}
        for stage in begun:
            layer = self._layer(stage)
            own = layer.preview(self.encoder, self._below(stage, originals))
            pictures |= {f"{stage}_{name}": picture for name, picture in own.items()}
        restored: list[str] = []
        if self._newest(step) == WHOLE:
            restored = [self.encoder.stage_names[-1]]
        elif all(isinstance(layer, AutoencoderLayer) for layer in self._layers()):
            restored = begun
        if restored:
            rows = [self._restore(originals, stage) for stage in restored]
            rows = [as_intensities(self._error, row) for row in rows]
            pictures["reconstructions"] = in_rows(originals, *rows).clamp(0, 1)
        elif (samples := self._samples(begun)) is not None:
            pictures["samples"] = samples.clamp(0, 1)
        return pictures

    def _samples(self, stages: Sequence[str]) -> Tensor | None:
        """Return images that a stack of RBMs makes up: the topmost's samples, handed down."""
        layers = [layer for stage in stages if isinstance(layer := self._layer(stage), RbmLayer)]
        if len(layers) < len(stages):
            return None
        *lower, topmost = layers
        samples = topmost.samples(self.encoder)
        for layer in reversed(lower):
            samples = layer.restore(self.encoder, samples)
        return samples

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Say what the layers say; nothing once the whole, and no longer they, are trained."""
        if self._newest(max(0, self._steps_taken - 1)) == WHOLE:
            return {}
        floats = to_float(images)
        return {
            f"{layer.stage}/{name}": value
            for layer in self._layers()
            for name, value in layer.facts(self.encoder, self._below(layer.stage, floats)).items()
        }


def _as_activations(features: Tensor) -> Tensor:
    if features.dim() == 4:
        return features.to(torch.float32, memory_format=torch.channels_last)
    return features.float()
