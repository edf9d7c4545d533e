"""Telling by how many quarters an image was turned.

Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations".

Shapes: B rows at hand, C channels, H = W height and width.
"""

from typing import Literal

from torch import Tensor

from data.augment import AugmentConfig
from models.encoders import Encoder
from models.head_networks import MlpSpec
from pretrain.objective import to_float
from pretrain.rotation import TURNS, every_turn
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting
from pretrain.task_head import TaskHead, TaskHeadConfig, classified
from pretrain.views import augmented
from training.errors import InputError
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch


class RotationTaskConfig(TaskConfig):
    """Tell by how many quarters an image was turned (Gidaris et al. 2018, RotNet)."""

    kind: Literal["rotation"] = "rotation"
    augment: AugmentConfig = AugmentConfig(horizontal_flip=True, shift=0.07)
    head: TaskHeadConfig = TaskHeadConfig(grid=2, network=MlpSpec(hidden=128))

    def build(self, setting: TaskSetting) -> "RotationTask":
        return RotationTask(self, setting)


class RotationTask(Task):
    """Each image is seen in all four turns, so that a step costs four images for each of its rows.

    Raises:
        InputError: images that are not square, which a quarter turn does not fit; one line.
    """

    score = Score("accuracy", chance=1 / TURNS)

    def __init__(self, config: RotationTaskConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        shape = setting.encoder.input
        if shape.height != shape.width:
            raise InputError(
                f"objective.kind: found 'rotation' with images of {shape.height}x{shape.width} "
                "(height x width), which a quarter turn does not fit; give square ones (data.size)"
            )
        self.config = config
        seed = derive_seed(setting.seed, "rotation")
        self.head = TaskHead(config.head, setting.encoder, TURNS, seed=seed)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = augmented(self.config.augment, to_float(batch["images"]), draws, "rotation")
        turned, turns = every_turn(images)
        loss, accuracy = classified(self.head(self.head.pool(encoder(turned))), turns)
        return loss, {"accuracy": accuracy}

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Rows of images, each turned by 0 to 3 quarters in turn."""
        return {"turns": every_turn(to_float(images[:8]))[0]}
