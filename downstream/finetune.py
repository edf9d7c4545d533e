"""Training a classifier on few labels, from fresh or from pretrained weights by the same code.

Shapes: B images in a batch, N labelled images, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.augment import Augment
from data.batches import Batches
from data.label_mixing import Mixing
from downstream.inputs import LabelledImages
from downstream.recipes import Recipe
from models.heads import Classifier
from models.monte_carlo import mean_log_probabilities, sample_logits, sampling_dropout
from training.compute import ComputeConfig
from training.loop import BatchSource, Trainer
from training.optimizers import AdamWConfig
from training.randomness import StepDraws, derive_seed
from training.schedules import ConstantSchedule, CosineSchedule, ScheduleConfig
from training.trainable import Batch, Phase, Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

COMPUTE = ComputeConfig(compile=False)
_PREDICTED_AT_ONCE = 500


class SupervisedTraining(Trainable):
    """The loss of a classifier on augmented images, mixed and held to where it began if asked.

    Args:
        class_weights: [C], what a label of each class counts; 1 on average over the labels.
        start: weights of the encoder as pretrained, by name; the recipe's `l2_sp` holds those that
            are trained to them (Li et al. 2018, "Explicit Inductive Bias for Transfer Learning").
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        start: Mapping[str, Tensor] | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.recipe = recipe
        self.augment = Augment(recipe.augment)
        self._mixing = None if recipe.mixing.is_off else Mixing(recipe.mixing)
        self._class_weights = class_weights
        self._held = [
            (parameter, start[name])
            for name, parameter in classifier.encoder.named_parameters()
            if start is not None and parameter.requires_grad
        ]

    def phases(self) -> Sequence[Phase]:
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        factors = {
            prefix: factor
            for prefix, factor in self.recipe.stage_rates.lr_factors(
                self.classifier.encoder.stage_names,
                prefix="classifier.encoder.blocks",
                factor=self.recipe.encoder_lr_factor,
            ).items()
            if any(name.startswith(f"{prefix}.") for name, _ in trained)
        }
        optimizer = AdamWConfig(lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)
        return [Phase("classification", trained, optimizer, self._loss, factors)]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["images"].float().div_(255)
        params = self.augment.draw(draws.global_size, draws.generator("augment"))
        images = self.augment.apply(images, params.rows(draws.start, draws.stop))
        labels = batch["labels"]
        if self._mixing is None:
            losses = self._row_losses(self.classifier(images), labels)
        else:
            drawn = self._mixing.draw(draws.global_size, draws.generator("mixing"))
            mixed = self._mixing.apply(images, drawn.rows(draws.start, draws.stop))
            scores = self.classifier(mixed.images)
            # As with soft targets: losses are linear in them, squares of quantities but for a
            # constant.
            losses = mixed.own * self._row_losses(scores, labels)
            losses = losses + (1 - mixed.own) * self._row_losses(scores, labels[mixed.partners])
        loss = losses.mean()
        if self._held:
            moved = torch.stack([(own - start).square().sum() for own, start in self._held]).sum()
            loss = loss + self.recipe.l2_sp / 2 * moved
        return loss, {}

    def _row_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row [B], weighted by its class."""
        output = self.classifier.output
        losses = output.losses(scores, labels, smoothing=self.recipe.label_smoothing)
        return losses if self._class_weights is None else losses * self._class_weights[labels]


@torch.no_grad()
def predict_logits(
    classifier: Classifier,
    images: Tensor,
    rows: NDArray[np.int64] | None,
    device: torch.device,
    *,
    flip_average: bool = False,
) -> Tensor:
    """Logits [N, C] on the CPU of uint8 images (those of `rows`), by a classifier in eval mode.

    Args:
        flip_average: average them with those of the mirrored images.
    """
    parts = []
    for pixels in _pixels(images, rows, device):
        logits: Tensor = classifier(pixels)
        if flip_average:
            logits = (logits + classifier(pixels.flip(3))) / 2
        parts.append(logits.cpu())
    return torch.cat(parts)


def _pixels(
    images: Tensor, rows: NDArray[np.int64] | None, device: torch.device
) -> Iterator[Tensor]:
    chosen = torch.arange(len(images)) if rows is None else torch.from_numpy(rows)
    for part in chosen.split(_PREDICTED_AT_ONCE):
        yield images[part].to(device).float().div_(255)


@dataclass(frozen=True)
class Scored:
    """Validation scores after `steps` steps: sums over the held-out rows."""

    steps: int
    nll: float
    hits: int


class Fit:
    """Trains one classifier by a recipe.

    Args:
        classifier: trained in place.
        recipe: how.
        data: images with labels, of which `rows` are used.
        steps: length of the schedule, from `recipe.steps_for(budget)`.
        seed: of the order of the images, augmentation and dropout.
        train_from: the lowest stage that is trained, whose lower ones stay frozen; None: all are
            trained.
        train_encoder: False: all stages stay frozen, and only the head is trained.
        schedule: of the learning rate, after the steps of the head alone.
        class_weights: [C], what a label of each class counts; 1 on average over the labels.
    """

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        data: LabelledImages,
        rows: NDArray[np.int64],
        *,
        steps: int,
        seed: int,
        accelerator: Accelerator,
        train_from: str | None = None,
        train_encoder: bool = True,
        schedule: ScheduleConfig = CosineSchedule(),
        class_weights: Tensor | None = None,
    ) -> None:
        self.recipe, self.steps, self.seed, self.accelerator = recipe, steps, seed, accelerator
        self.classifier = classifier.to(accelerator.device)
        self._train_from, self._train_encoder = train_from, train_encoder
        self._schedule = schedule
        self._class_weights = class_weights
        if class_weights is not None:
            self._class_weights = class_weights.to(accelerator.device)
        self._start: Mapping[str, Tensor] | None = None
        if recipe.l2_sp > 0:
            named = classifier.encoder.named_parameters()
            self._start = {name: parameter.detach().clone() for name, parameter in named}
        self.batches: BatchSource = Batches(
            data.images,
            data.labels,
            indices=rows,
            batch_size=recipe.batch_size,
            seed=derive_seed(seed, "order"),
            device=accelerator.device,
        )

    def train(self, stop_at: int | None = None) -> None:
        """Train the head alone for `head_steps`, then everything up to step `stop_at`."""
        trainer = self._after_head()
        for step in range(self.steps if stop_at is None else stop_at):
            trainer.train_step(step, measure=False)

    def along(self, due: Collection[int]) -> Iterator[int]:
        """Train to the end of the schedule; yield the number of steps taken at those that are due.

        In between the classifier is as it is then: it may be asked, but not changed.
        """
        trainer = self._after_head()
        for step in range(self.steps):
            trainer.train_step(step, measure=False)
            if step + 1 in due:
                yield step + 1
                trainer.trainable.train()

    def validate(
        self, data: LabelledImages, rows: NDArray[np.int64], *, evaluations: int
    ) -> list[Scored]:
        """Train to the end of the schedule; score on `rows` evenly along it and at its end."""
        due = {max(1, round(self.steps * (i + 1) / evaluations)) for i in range(evaluations)}
        scores = []
        labels = data.labels[torch.from_numpy(rows)]
        for steps in self.along(due):
            logits = self.predict(data.images, rows)
            nll = F.cross_entropy(logits, labels, reduction="sum").item()
            hits = int((logits.argmax(dim=1) == labels).sum())
            scores.append(Scored(steps, nll, hits))
        return scores

    @torch.no_grad()
    def predict(self, images: Tensor, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Logits [N, C] on the CPU of uint8 images (those of `rows`), in eval mode.

        With `mc_samples` they are the logarithms of the probabilities that passes with dropout
        on give on average; what these draw depends on the seed and the images' order alone.
        """
        device = self.accelerator.device
        if not self.recipe.samples_dropout:
            return predict_logits(self.classifier.eval(), images, rows, device)
        pixels = _pixels(images, rows, device)
        with sampling_dropout(self.classifier, seed=derive_seed(self.seed, "predict")):
            sampled = (
                sample_logits(self.classifier, part, self.recipe.mc_samples) for part in pixels
            )
            return torch.cat([mean_log_probabilities(logits).cpu() for logits in sampled])

    def _training(self) -> SupervisedTraining:
        return SupervisedTraining(self.classifier, self.recipe, self._start, self._class_weights)

    def _after_head(self) -> Trainer:
        encoder = self.classifier.encoder
        encoder.freeze()
        if self.recipe.head_steps:
            head = self._trainer(self.recipe.head_steps, "head", ConstantSchedule())
            for step in range(self.recipe.head_steps):
                head.train_step(step, measure=False)
        if self._train_encoder:
            encoder.unfreeze(self._train_from)
        return self._trainer(self.steps, "all", self._schedule)

    def _trainer(self, steps: int, purpose: str, schedule: ScheduleConfig) -> Trainer:
        return Trainer(
            self._training(),
            self.batches,
            total_steps=steps,
            schedule=schedule,
            compute=COMPUTE,
            seed=derive_seed(self.seed, purpose),
            accelerator=self.accelerator,
        )
