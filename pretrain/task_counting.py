"""Learning to count: the tiles of an image together hold what the image itself holds.

Noroozi et al. 2017, "Representation Learning by Learning to Count".

Shapes: B rows at hand, C channels, H height, W width, K counts of an image.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder
from models.head_networks import MlpSpec
from pretrain.objective import to_float
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, require_parts, require_rows
from pretrain.task_head import TaskHead, TaskHeadConfig
from training.errors import InputError
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_TILES = 4
_SMALLEST = 4


class CountingConfig(TaskConfig):
    """Count so that an image's quarters together count as the image does (Noroozi et al. 2017)."""

    kind: Literal["counting"] = "counting"
    counts: int = Field(64, ge=1, le=65536, description="what is counted: values, 0 or more")
    margin: float = Field(
        10.0,
        gt=0,
        description="squared distance that the sum of the quarters' counts is to have from those "
        "of another image, so that all counts cannot be 0",
    )
    head: TaskHeadConfig = TaskHeadConfig(network=MlpSpec(hidden=256))

    def build(self, setting: TaskSetting) -> "Counting":
        return Counting(self, setting)


class Counting(Task):
    """The image at half its size and its four quarters go through the encoder, all of one size.

    How an image is made smaller is drawn for each, so that its traces do not tell it from a
    quarter. The other image is the next one of the rows at hand.

    Raises:
        InputError: one image at a time, an encoder that takes whole images alone, or images too
            small to be cut; one line.
    """

    sees_parts = True
    score = Score("told_apart", chance=0.5, may_be_solved=True)

    def __init__(self, config: CountingConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        require_rows(setting, config.kind)
        require_parts(setting.encoder, config.kind)
        shape = setting.encoder.input
        if min(shape.height, shape.width) < 2 * _SMALLEST:
            raise InputError(
                f"objective.kind: found 'counting' with images of {shape.height}x{shape.width} "
                f"(height x width), whose quarters have fewer than {_SMALLEST} pixels a side; take "
                "larger images (data.size)"
            )
        self.config = config
        seed = derive_seed(setting.seed, "counting")
        self.head = TaskHead(config.head, setting.encoder, config.counts, seed=seed)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        height, width = (2 * (side // 2) for side in images.shape[2:])
        images = images[..., :height, :width]
        quarters = quarters_of(images).flatten(0, 1)
        small = halved(images, draws)
        parts = torch.cat([small, quarters]).contiguous(memory_format=torch.channels_last)
        counts = self.head(self.head.pool(encoder.of_parts(parts))).float().relu()
        whole, of_quarters = counts[: len(small)], counts[len(small) :]
        total = of_quarters.unflatten(0, (-1, _TILES)).sum(1)
        own = (whole - total).square().sum(1)
        other = (whole.roll(1, 0) - total).square().sum(1)
        loss = own + F.relu(self.config.margin - other)
        metrics = {
            "told_apart": (own < other).float().mean(),
            "counted": whole.sum(1).mean(),
        }
        return loss.mean(), metrics


def quarters_of(images: Tensor) -> Tensor:
    """Return the four quarters of images [B, C, H, W] of even sides, [B, 4, C, H / 2, W / 2]."""
    halves = images.chunk(2, 2)
    return torch.stack([quarter for half in halves for quarter in half.chunk(2, 3)], 1)


def halved(images: Tensor, draws: StepDraws) -> Tensor:
    """Return images [B, C, H, W] of even sides at half their size, each by one of three ways."""
    ways = [
        F.avg_pool2d(images, 2),
        images[..., ::2, ::2],
        F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1),
    ]
    way = draws.randint("halved", len(ways))
    return torch.stack(ways, 1)[torch.arange(len(images), device=images.device), way]
