"""Several objectives at once on one encoder.

Doersch & Zisserman 2017, "Multi-task Self-Supervised Visual Learning".

Shapes: P objectives.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from torch import Tensor, nn

from data.batches import Batches
from data.image_rows import ImageRows
from models.encoders import Encoder
from pretrain.autoencoder import AutoencoderConfig
from pretrain.held_out import Rows
from pretrain.labels import LabelsConfig
from pretrain.masked import MaskedConfig
from pretrain.objective import Objective
from pretrain.supervised import SupervisedConfig
from pretrain.task_clusters import ClustersConfig
from pretrain.task_contrast import ContrastTaskConfig
from pretrain.task_counting import CountingConfig
from pretrain.task_exemplar import ExemplarConfig
from pretrain.task_jigsaw import JigsawConfig
from pretrain.task_noise_targets import NoiseTargetsConfig
from pretrain.task_relative_position import RelativePositionConfig
from pretrain.task_rotation import RotationTaskConfig
from pretrain.task_transformation import TransformationTaskConfig
from pretrain.variational import VariationalConfig
from pretrain.vector_quantized import VectorQuantizedConfig
from training.loop import BatchSource
from training.monitoring import Monitor
from training.names import PlainName
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase, PhaseLoss

OnePhaseConfig = Annotated[
    AutoencoderConfig
    | VariationalConfig
    | VectorQuantizedConfig
    | MaskedConfig
    | SupervisedConfig
    | LabelsConfig
    | RotationTaskConfig
    | RelativePositionConfig
    | JigsawConfig
    | TransformationTaskConfig
    | ExemplarConfig
    | CountingConfig
    | ContrastTaskConfig
    | ClustersConfig
    | NoiseTargetsConfig,
    Field(discriminator="kind"),
]
"""Objectives of one phase, each of which trains the whole encoder all the time on images as they
are."""


_LOGGED = ("loss", "lr", "grad_norm")
"""What the log of every run holds beside the parts."""


class PartConfig(BaseModel):
    """One objective among several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, gt=0, description="of its loss; with uncertainty: at first")
    objective: OnePhaseConfig = AutoencoderConfig()


class CombinedConfig(BaseModel):
    """Minimize a weighted sum of several objectives' losses on one encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["combined"] = "combined"
    parts: Annotated[dict[PlainName, PartConfig], Field(min_length=1)] = Field(
        {"autoencoder": PartConfig()}, description="objectives by names of your own"
    )
    weighting: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="uncertainty: a loss counts 1 / (2 s^2) + log s, s being learned (Kendall et "
        "al. 2018), so that losses of any scale weigh about alike",
    )

    @model_validator(mode="after")
    def _losses_have_a_least_value(self) -> "CombinedConfig":
        for name, part in self.parts.items():
            if self.weighting == "uncertainty" and _may_fall_below_zero(part.objective):
                raise ValueError(
                    f"found weighting uncertainty with parts.{name}, a density whose loss may fall "
                    "below 0, where its weight would grow without end; use fixed"
                )
            if name in _LOGGED:
                raise ValueError(
                    f"found a part called {name}, as is a value of every log; call it otherwise"
                )
        return self


def _may_fall_below_zero(objective: OnePhaseConfig) -> bool:
    return isinstance(objective, VariationalConfig) or (
        isinstance(objective, TransformationTaskConfig) and objective.variational
    )


class PartBatches:
    """Batches that hold what single parts read for themselves beside the images of all."""

    def __init__(self, images: BatchSource, others: Mapping[str, BatchSource]) -> None:
        self.batch_size = images.batch_size
        self._images = images
        self._others = others

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """As that of the images, with a part's own values under PART/NAME."""
        batch = self._images.batch(step, start, stop)
        for part, source in self._others.items():
            own = source.batch(step, start, stop)
            batch |= {f"{part}/{name}": value for name, value in own.items()}
        return batch


class Combined(Objective):
    """One phase: the sum of the parts' weighted losses.

    The parts look at the encoder and do not own it: a weight has one name. Each draws random
    numbers of its own.
    """

    def __init__(
        self,
        config: CombinedConfig,
        encoder: Encoder,
        parts: Mapping[str, Objective],
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
    ) -> None:
        """Put objectives together, each of which was made with this encoder."""
        super().__init__()
        self.config = config
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        # The compiler cannot take an encoder that one of the parts changes or differentiates twice.
        compiled = [[*part.networks()] for part in parts.values()]
        whole = all(any(one is encoder for one in networks) for networks in compiled)
        own = [one for networks in compiled for one in networks if one not in encoder.modules()]
        self._compiled = [*([encoder] if whole else []), *own]
        self.compared = {name for part in parts.values() for name in part.compared}
        self.warnings = [text for part in parts.values() for text in part.warnings]
        for part in parts.values():
            del part.encoder
            object.__setattr__(part, "encoder", encoder)
        self.parts = nn.ModuleDict(parts)
        self.log_variances: nn.Parameter | None = None
        if config.weighting == "uncertainty":
            # So that at first each counts its weight: 1 / (2 s^2).
            weights = torch.tensor([config.parts[name].weight for name in parts])
            self.log_variances = nn.Parameter(-(2 * weights).log())
        self._losses_of: dict[str, PhaseLoss] = {}

    def phases(self) -> Sequence[Phase]:
        for name, part in self._each():
            part.total_steps = self.total_steps
            (phase,) = part.phases()
            self._losses_of[name] = phase.loss
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        return [Phase("combined", list(self.named_parameters()), self.optimizer, self._loss, rates)]

    def read(self, batches: Batches) -> BatchSource:
        own = {name: part.read(batches) for name, part in self._each()}
        others = {name: source for name, source in own.items() if source is not batches}
        return PartBatches(batches, others) if others else batches

    def networks(self) -> Sequence[nn.Module]:
        return self._compiled

    def stages(self) -> Mapping[str, nn.Module]:
        """Return the encoder's stages, then the parts' other networks, by PART.NAME."""
        found = {f"encoder.{name}": block for name, block in self.encoder.blocks.items()}
        for name, part in self._each():
            found |= {
                f"{name}.{stage}": network
                for stage, network in part.stages().items()
                if not stage.startswith("encoder.")
            }
        return found

    def checkpoint_stages(self) -> None:
        for _, part in self._each():
            part.checkpoint_stages()

    def _each(self) -> Iterator[tuple[str, Objective]]:
        for name, part in self.parts.items():
            assert isinstance(part, Objective)
            yield name, part

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = torch.zeros((), device=draws.device), {}
        for number, (name, loss_of) in enumerate(self._losses_of.items()):
            own = replace(draws, seed=derive_seed(draws.seed, name))
            prefix = f"{name}/"
            of_part = {key: value for key, value in batch.items() if key.startswith(prefix)}
            of_part = {key.removeprefix(prefix): value for key, value in of_part.items()}
            term, others = loss_of({**batch, **of_part}, own)
            metrics[name] = term
            if self.log_variances is None:
                loss = loss + self.config.parts[name].weight * term
            else:
                log_variance = self.log_variances[number]
                loss = loss + 0.5 * ((-log_variance).exp() * term + log_variance)
                metrics[f"{name}/weight"] = 0.5 * (-log_variance).exp()
            metrics |= {f"{name}/{metric}": value for metric, value in others.items()}
        return loss, metrics

    def after_step(self, step: int) -> None:
        for _, part in self._each():
            part.after_step(step)

    def monitors(
        self, images: ImageRows, trained: Rows, held_out: Rows, folder: Path
    ) -> Sequence[Monitor]:
        return [
            monitor
            for _, part in self._each()
            for monitor in part.monitors(images, trained, held_out, folder)
        ]

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Say what the parts say, each behind its name."""
        return {
            f"{name}/{fact}": value
            for name, part in self._each()
            for fact, value in part.facts(images).items()
        }

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """The parts' pictures behind their names; filters once."""
        pictures: dict[str, Tensor] = {}
        for name, part in self._each():
            for picture, values in part.preview(images).items():
                pictures["filters" if picture == "filters" else f"{name}_{picture}"] = values
        return pictures
