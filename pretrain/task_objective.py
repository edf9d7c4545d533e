"""The objective that is one task for the encoder."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from torch import Tensor, nn

from data.batches import Batches
from models.encoders import Encoder
from pretrain.objective import Objective
from pretrain.pictures import first_layer_filters
from pretrain.short_cuts import ScoreWatch
from pretrain.task import Task
from training.loop import BatchSource
from training.optimizers import OptimizerConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig
from training.trainable import Batch, Phase


class TaskObjective(Objective):
    """One phase, named as the task: its loss on the encoder.

    At the end of a run it says whether the task was too easy or too hard to teach anything.
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        optimizer: OptimizerConfig,
        stage_rates: StageRatesConfig,
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.stage_rates = stage_rates
        self.encoder = encoder
        self.task = task
        self.watch = ScoreWatch(task.name, task.score) if task.score else None

    def phases(self) -> Sequence[Phase]:
        rates = self.stage_rates.lr_factors(self.encoder.stage_names, prefix="encoder.blocks")
        parameters = list(self.named_parameters())
        return [Phase(self.task.name, parameters, self.optimizer, self._loss, rates)]

    def networks(self) -> Sequence[nn.Module]:
        """The encoder, or its stages where parts of images go through them, and the heads."""
        parts = [*self.encoder.blocks.values()] if self.task.sees_parts else [self.encoder]
        return [*parts, *self._heads().values()]

    def stages(self) -> Mapping[str, nn.Module]:
        """Return the encoder's stages, then the task's heads."""
        blocks = {f"encoder.{name}": block for name, block in self.encoder.blocks.items()}
        return blocks | self._heads()

    def read(self, batches: Batches) -> BatchSource:
        return self.task.read(batches)

    def after_step(self, step: int) -> None:
        self.task.after_step(self.encoder, step)

    def facts(self, images: Tensor) -> Mapping[str, JsonValue]:
        """Return the task's, its score at the end, and a warning where it taught little."""
        return {**self.task.facts(), **(self.watch.facts() if self.watch else {})}

    def preview(self, images: Tensor) -> dict[str, Tensor]:
        """What is asked about some images; first-layer filters."""
        return {
            **self.task.preview(self.encoder, images),
            "filters": first_layer_filters(self.encoder),
        }

    def _heads(self) -> dict[str, nn.Module]:
        heads = self.task.named_children()
        return {
            f"task.{name}": head for name, head in heads if any(True for _ in head.parameters())
        }

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.task.loss(self.encoder, batch, draws)
        if self.watch and self.training:
            value = metrics[self.watch.score.metric]
            self.watch.note(value, len(batch["images"]), draws.step, self.total_steps)
        return loss, metrics
