"""Solving jigsaw puzzles: by which of some permutations the tiles of an image were shuffled.

Noroozi & Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles".

Shapes: B rows at hand, T tiles of an image, P permutations, D pooled features of a tile.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.encoders import Encoder
from models.head_networks import MlpSpec
from pretrain.objective import to_float
from pretrain.permutations import unlike_permutations
from pretrain.short_cuts import Score
from pretrain.task import Task, TaskConfig, TaskSetting, require_parts
from pretrain.task_head import TaskHead, TaskHeadConfig, classified
from pretrain.tiles import TilesConfig, Tiling, features_of, shown
from training.errors import InputError
from training.randomness import StepDraws, derive_seed
from training.trainable import Batch


class JigsawConfig(TaskConfig):
    """Tell by which permutation an image's tiles were shuffled (Noroozi & Favaro 2016)."""

    kind: Literal["jigsaw"] = "jigsaw"
    grid: int = Field(3, ge=2, le=3, description="cells of the puzzle a side")
    permutations: int = Field(
        24,
        ge=2,
        le=1000,
        description="of the tiles, as unlike each other as can be; at most all of them",
    )
    tiles: TilesConfig = TilesConfig()
    head: TaskHeadConfig = TaskHeadConfig(network=MlpSpec(hidden=256))

    def build(self, setting: TaskSetting) -> "Jigsaw":
        return Jigsaw(self, setting)


class Jigsaw(Task):
    """Each tile goes through the encoder by itself; the head sees all of an image, shuffled.

    Raises:
        InputError: an encoder that takes whole images alone, more cells than the images have pixels
            for, or more permutations than there are; one line.
    """

    sees_parts = True
    orders: Tensor

    def __init__(self, config: JigsawConfig, setting: TaskSetting) -> None:
        super().__init__(config.kind)
        require_parts(setting.encoder, config.kind)
        tiles = config.grid**2
        if config.permutations > math.factorial(tiles):
            raise InputError(
                f"objective.permutations: found {config.permutations}, but {tiles} tiles "
                f"(objective.grid {config.grid}) have {math.factorial(tiles)}; take at most these"
            )
        self.tiling = Tiling.of(
            config.tiles, setting.encoder.input, config.grid, key="objective.grid"
        )
        self.score = Score("accuracy", chance=1 / config.permutations)
        orders = torch.from_numpy(unlike_permutations(tiles, config.permutations))
        # Not in the state dict: they are always the same.
        self.register_buffer("orders", orders, persistent=False)
        seed = derive_seed(setting.seed, "jigsaw")
        self.head = TaskHead(
            config.head, setting.encoder, config.permutations, seed=seed, views=tiles
        )

    def loss(
        self, encoder: Encoder, batch: Batch, draws: StepDraws
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tiles = self.tiling.cut(to_float(batch["images"]), draws)
        features = features_of(encoder, tiles, self.head)
        labels = draws.randint("permutation", len(self.orders))
        order = self.orders[labels]
        shuffled = features.gather(1, order[..., None].expand_as(features))
        loss, accuracy = classified(self.head(shuffled.flatten(1)), labels)
        return loss, {"accuracy": accuracy}

    def preview(self, encoder: Encoder, images: Tensor) -> dict[str, Tensor]:
        """Puzzles: originals, and their tiles in their places, normalized."""
        return {"tiles": shown(self.tiling, to_float(images))}
