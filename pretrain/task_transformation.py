"""Telling from two images by which transformation one became the other.

Zhang et al. 2019, "AET vs. AED: Unsupervised Representation Learning by Auto-Encoding
Transformations rather than Data"; Qi et al. 2019, "AVT: Unsupervised Learning of Transformation
Equivariant Representations by Autoencoding Variational Transformations".

Shapes: B rows at hand, C channels, H height, W width, D pooled features, P parameters.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.encoders import Encoder
from models.head_networks import LinearHead, MlpSpec
from pretrain.objective import to_float
from pretrain.pictures import in_rows
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting
from pretrain.task_head import TaskHead, TaskHeadConfig
from pretrain.transformation import (
    AffineConfig,
    Padding,
    TransformationConfig,
    as_parameters,
    matrices_from,
    parameters_of,
    transformed,
)
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_DRAWS = 10
_SAMPLE = 10_000
_LARGEST_LOG_VARIANCE = 10.0


class TransformationTaskConfig(TaskConfig):
    """Tell the transformation between two images (Zhang et al. 2019; Qi et al. 2019)."""

    kind: Literal["transformation"] = "transformation"
    transformation: TransformationConfig = AffineConfig()
    padding: Padding = Field(
        "reflection",
        description="what moves in from outside: zeros draw the transformation's outline where the "
        "background is not black",
    )
    variational: bool = Field(
        False,
        description="AVT: the transformed image's features are a normal distribution, and so is "
        "what is told of the transformation; its log density is maximized",
    )
    head: TaskHeadConfig = TaskHeadConfig(grid=2, network=MlpSpec(hidden=256))

    def build(self, setting: TaskSetting) -> "TransformationTask":
        return TransformationTask(self, setting)


class TransformationTask(Task):
    """The image and its transform go through the encoder; the head sees both pooled features.

    Parameters are the entries of the transformation's matrix that vary, each standardized by its
    mean and deviation over what is drawn.
    """

    score = Score("explained", chance=0.0)
    mean: Tensor
    std: Tensor

    def __init__(self, config: TransformationTaskConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        self.config = config
        self.parameters_told = parameters_of(config.transformation)
        outputs = self.parameters_told * (2 if config.variational else 1)
        seed = derive_seed(setting.seed, "transformation")
        self.head = TaskHead(config.head, setting.encoder, outputs, seed=seed, views=2)
        self.spread: LinearHead | None = None
        if config.variational:
            width = self.head.width
            self.spread = LinearHead(width, width, seed=derive_seed(setting.seed, "spread"))
        generator = torch.Generator().manual_seed(derive_seed(0, "transformation"))
        sample = matrices_from(
            config.transformation, torch.rand(_SAMPLE, _DRAWS, generator=generator)
        )
        std, mean = torch.std_mean(as_parameters(config.transformation, sample), 0)
        # Not in the state dict: the config is their only source.
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", torch.where(std > 0, std, 1.0), persistent=False)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        seen, parameters = self._drawn(images, draws)
        before, after = self.head.pool(encoder(torch.cat([images, seen]))).chunk(2)
        added: dict[str, Tensor] = {}
        if self.spread is not None:
            log_variance = _bounded(self.spread(after))
            noise = draws.randn("features", self.head.width) if self.training else 0.0
            after = after + (0.5 * log_variance).exp() * noise
            added["feature_std"] = (0.5 * log_variance).exp().mean()
        told = self.head(before, after).float()
        mean = told[:, : self.parameters_told]
        error = (mean - parameters).square()
        # 1 for all, and 0 where the mean over all transformations is told each time.
        metrics = {"explained": 1 - error.mean(), **added}
        if self.spread is None:
            return error.mean(), metrics
        log_variance = _bounded(told[:, self.parameters_told :])
        surprise = error * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
        return 0.5 * surprise.mean(), metrics

    def _drawn(self, images: Tensor, draws: StepDraws) -> tuple[Tensor, Tensor]:
        """Return transformed images [B, C, H, W] and the standardized parameters [B, P]."""
        config = self.config
        with torch.autocast(images.device.type, enabled=False):
            matrices = matrices_from(config.transformation, draws.rand("transformation", _DRAWS))
            seen = transformed(images, matrices, config.padding)
        parameters = as_parameters(config.transformation, matrices)
        return seen, (parameters - self.mean) / self.std

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Rows of originals and of their transforms."""
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        originals = to_float(images)
        return {"transforms": in_rows(originals, self._drawn(originals, draws)[0])}


def _bounded(log_variance: Tensor) -> Tensor:
    return log_variance.float().clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
