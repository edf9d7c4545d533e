"""Telling single images apart by their augmented copies: each is a class.

Dosovitskiy et al. 2014, "Discriminative Unsupervised Feature Learning with Convolutional Neural
Networks" (Exemplar-CNN).

Shapes: B rows at hand, K classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from data.augment import AugmentConfig
from data.batches import Batches, PlacedBatches
from models.encoders import Encoder
from pretrain.objective import to_float
from pretrain.pictures import in_rows
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, refuse_held_out
from pretrain.task_head import TaskHead, TaskHeadConfig, classified
from pretrain.views import augmented
from training.errors import InputError
from training.loop import BatchSource
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_DEFAULT_CLASSES = 2000


class ExemplarConfig(TaskConfig):
    """Tell of which image a picture is an augmented copy (Dosovitskiy et al. 2014)."""

    kind: Literal["exemplar"] = "exemplar"
    classes: int | None = Field(
        None,
        ge=2,
        description="images, drawn from all, that are told apart, and the only ones that are "
        f"trained on; null: {_DEFAULT_CLASSES}, or as many as there are",
    )
    augment: AugmentConfig = AugmentConfig(
        horizontal_flip=True,
        shift=0.0,
        crop_area=(0.4, 1.0),
        rotation=20.0,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
    )
    head: TaskHeadConfig = TaskHeadConfig()

    def build(self, setting: TaskSetting) -> "Exemplar":
        return Exemplar(self, setting)


class Exemplar(Task):
    """Every image of a batch is seen in one augmented copy.

    Raises:
        InputError: more classes than images, or images held out, which are no class; one line.
    """

    def __init__(self, config: ExemplarConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        refuse_held_out(setting, config.kind)
        if config.classes is not None and config.classes > setting.count:
            raise InputError(
                f"objective.classes: found {config.classes:,}, but there are {setting.count:,} "
                f"images to train on, each of which is a class; take at most {setting.count}"
            )
        self.config = config
        self.classes = config.classes or min(_DEFAULT_CLASSES, setting.count)
        self.score = Score("accuracy", chance=1 / self.classes, may_be_solved=True)
        self._seed = derive_seed(setting.seed, "exemplar/images")
        seed = derive_seed(setting.seed, "exemplar")
        self.head = TaskHead(config.head, setting.encoder, self.classes, seed=seed)

    def read(self, batches: Batches) -> BatchSource:
        """Return batches of the drawn images alone, each with its class."""
        generator = torch.Generator().manual_seed(self._seed)
        drawn = torch.randperm(len(batches), generator=generator)[: self.classes]
        return PlacedBatches(batches.some(drawn.numpy()))

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        seen = augmented(self.config.augment, to_float(batch["images"]), draws, "exemplar")
        loss, accuracy = classified(self.head(self.head.pool(encoder(seen))), batch["places"])
        return loss, {"accuracy": accuracy}

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals and of two copies of each."""
        originals = to_float(images)
        copies = [
            augmented(
                self.config.augment,
                originals,
                StepDraws(0, step, images.device, len(images), 0, len(images)),
                "exemplar",
            )
            for step in (0, 1)
        ]
        return {"copies": in_rows(originals, *copies)}
