"""Fine-tuning on few labels and on images whose labels are not read. Inductive.

Shapes: B labelled images in a batch, U unlabelled ones, K classes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.augment import Augment
from data.batches import Batches
from downstream.finetune import Fit, SupervisedTraining
from downstream.inputs import LabelledImages
from downstream.modes import FixMatch, MeanTeacher
from downstream.recipes import Recipe
from models.heads import Classifier
from training.loop import BatchSource
from training.moving_copy import MovingCopy
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator

_UNLABELLED = "unlabelled"


class _SemiSupervised(SupervisedTraining):
    """The supervised loss, and one of images [U, C, H, W] in [0, 1] without their labels."""

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super()._loss(batch, draws)
        pixels = batch[_UNLABELLED].float().div_(255)
        return loss + self._unlabelled_loss(pixels, draws), metrics

    @abstractmethod
    def _unlabelled_loss(self, pixels: Tensor, draws: StepDraws) -> Tensor: ...

    @torch.no_grad()
    def _probabilities(self, classifier: Classifier, pixels: Tensor) -> Tensor:
        """Return probabilities [U, K] without dropout, by the running statistics of any norms."""
        training = classifier.training
        classifier.eval()
        probabilities = classifier(pixels).softmax(dim=1)
        classifier.train(training)
        return probabilities


def _changed(pixels: Tensor, augment: Augment, draws: StepDraws, purpose: str) -> Tensor:
    """Change unlabelled images, of which there are equally many for each labelled one."""
    ratio = len(pixels) // (draws.stop - draws.start)
    params = augment.draw(ratio * draws.global_size, draws.generator(purpose))
    return augment.apply(pixels, params.rows(ratio * draws.start, ratio * draws.stop))


class FixMatchTraining(_SemiSupervised):
    """Cross-entropy of strongly changed images and what is sure of them changed weakly."""

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        start: Mapping[str, Tensor] | None,
        class_weights: Tensor | None,
        mode: FixMatch,
    ) -> None:
        super().__init__(classifier, recipe, start, class_weights)
        self._mode, self._strong = mode, Augment(mode.strong)

    def _unlabelled_loss(self, pixels: Tensor, draws: StepDraws) -> Tensor:
        weak = _changed(pixels, self.augment, draws, "weak")
        confidence, said = self._probabilities(self.classifier, weak).max(dim=1)
        logits = self.classifier(_changed(pixels, self._strong, draws, "strong"))
        losses = F.cross_entropy(logits, said, reduction="none")
        return self._mode.weight * (losses * (confidence >= self._mode.threshold)).mean()


class MeanTeacherTraining(_SemiSupervised):
    """Squared distance of probabilities from those of the weights' moving average."""

    def __init__(
        self,
        classifier: Classifier,
        recipe: Recipe,
        start: Mapping[str, Tensor] | None,
        class_weights: Tensor | None,
        mode: MeanTeacher,
    ) -> None:
        super().__init__(classifier, recipe, start, class_weights)
        self._mode, self.teacher = mode, MovingCopy(classifier, mode.decay)

    def _unlabelled_loss(self, pixels: Tensor, draws: StepDraws) -> Tensor:
        # The two see the same image changed in two ways.
        taught = self._probabilities(
            self.teacher.module, _changed(pixels, self.augment, draws, "teacher")
        )
        own = self.classifier(_changed(pixels, self.augment, draws, "student")).softmax(dim=1)
        distance = (own - taught).square().sum(dim=1).mean()
        return self._weight(draws.step) * distance

    def _weight(self, step: int) -> float:
        ramp = self._mode.ramp_up * self.total_steps
        missing = 1 - min(1.0, step / ramp) if ramp else 0.0
        return self._mode.weight * math.exp(-5 * missing**2)

    def after_step(self, step: int) -> None:
        self.teacher.follow(self.classifier, step)
        if step + 1 == self.total_steps:
            self.classifier.load_state_dict(self.teacher.module.state_dict())


class _MixedBatches:
    """Labelled images with `ratio` times as many unlabelled ones beside them."""

    def __init__(self, labelled: BatchSource, unlabelled: BatchSource, ratio: int) -> None:
        self.batch_size = labelled.batch_size
        self._labelled, self._unlabelled, self._ratio = labelled, unlabelled, ratio

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows [start, stop) of the labelled ones, and those that go with them."""
        stop = self.batch_size if stop is None else stop
        beside = self._unlabelled.batch(step, self._ratio * start, self._ratio * stop)
        return {**self._labelled.batch(step, start, stop), _UNLABELLED: beside["images"]}


class SemiSupervisedFit(Fit):
    """Trains all stages of one classifier, which has a fitted head, in such a way.

    Args:
        mode: the way.
        data: all its images are read, and the labels of `rows` alone.
        recipe, rows, seed, class_weights: as in `Fit`.
    """

    def __init__(
        self,
        classifier: Classifier,
        mode: FixMatch | MeanTeacher,
        recipe: Recipe,
        data: LabelledImages,
        rows: NDArray[np.int64],
        *,
        seed: int,
        accelerator: Accelerator,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(
            classifier,
            recipe,
            data,
            rows,
            steps=mode.steps,
            seed=seed,
            accelerator=accelerator,
            class_weights=class_weights,
        )
        self._mode = mode
        unlabelled = Batches(
            data.images,
            batch_size=mode.ratio * recipe.batch_size,
            seed=derive_seed(seed, _UNLABELLED),
            device=accelerator.device,
        )
        self.batches = _MixedBatches(self.batches, unlabelled, mode.ratio)

    def _training(self) -> SupervisedTraining:
        parts = (self.classifier, self.recipe, self._start, self._class_weights)
        if isinstance(self._mode, FixMatch):
            return FixMatchTraining(*parts, self._mode)
        return MeanTeacherTraining(*parts, self._mode)
