"""Telling where a tile lies that is next to another.

Doersch et al. 2015, "Unsupervised Visual Representation Learning by Context Prediction".

Shapes: B rows at hand, D pooled features of a tile.
"""

from typing import Literal

import torch
from torch import Tensor

from models.encoders import Encoder
from models.head_networks import MlpSpec
from pretrain.objective import to_float
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, require_parts
from pretrain.task_head import TaskHead, TaskHeadConfig, classified
from pretrain.tiles import TilesConfig, Tiling, features_of, shown
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch

_CELLS = 3
_CENTRE = 4
_NEIGHBOURS = _CELLS**2 - 1


class RelativePositionConfig(TaskConfig):
    """Tell which of eight neighbours of the central tile a tile is (Doersch et al. 2015)."""

    kind: Literal["relative_position"] = "relative_position"
    tiles: TilesConfig = TilesConfig()
    head: TaskHeadConfig = TaskHeadConfig(network=MlpSpec(hidden=256))

    def build(self, setting: TaskSetting) -> "RelativePosition":
        return RelativePosition(self, setting)


class RelativePosition(Task):
    """Each of 3 x 3 tiles goes through the encoder once; the head sees the centre and each other.

    Raises:
        InputError: an encoder that takes whole images alone, or images too small for the tiles; one
            line.
    """

    sees_parts = True
    score = Score("accuracy", chance=1 / _NEIGHBOURS)

    def __init__(self, config: RelativePositionConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        require_parts(setting.encoder, config.kind)
        self.tiling = Tiling.of(
            config.tiles, setting.encoder.input, _CELLS, key="objective.kind relative_position"
        )
        seed = derive_seed(setting.seed, "relative_position")
        self.head = TaskHead(config.head, setting.encoder, _NEIGHBOURS, seed=seed, views=2)

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tiles = self.tiling.cut(to_float(batch["images"]), draws)
        features = features_of(encoder, tiles, self.head)
        others = torch.cat([features[:, :_CENTRE], features[:, _CENTRE + 1 :]], 1)
        centre = features[:, _CENTRE, None].expand_as(others)
        labels = torch.arange(_NEIGHBOURS, device=others.device).repeat(len(others))
        loss, accuracy = classified(self.head(centre.flatten(0, 1), others.flatten(0, 1)), labels)
        return loss, {"accuracy": accuracy}

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Originals, and their tiles in their places, normalized."""
        return {"tiles": shown(self.tiling, to_float(images))}
