"""The small head between an encoder's last stage and the answer to a task.

Shapes: B rows, C channels, H height, W width, D pooled features, V views that are answered about
together, K outputs.
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.head_networks import LinearSpec, MlpSpec, build_head
from models.heads import pool_to_grid, pooled_shapes, pooled_width


class TaskHeadConfig(BaseModel):
    """A linear layer, or one with a hidden layer below it, on the pooled last stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: int = Field(
        1,
        ge=1,
        le=64,
        description="side of the raster that the last stage is pooled to; 1: mean over positions",
    )
    network: Annotated[LinearSpec | MlpSpec, Field(discriminator="kind")] = LinearSpec()


class TaskHead(nn.Module):
    """Pooled features [B, V * D] -> raw outputs [B, K]."""

    def __init__(
        self, config: TaskHeadConfig, encoder: Encoder, outputs: int, *, seed: int, views: int = 1
    ) -> None:
        """For the last stage of an encoder; weights are drawn from `seed` alone."""
        super().__init__()
        (shape,) = pooled_shapes(encoder, encoder.stage_names[-1:], config.grid)
        self.grid = config.grid
        self.width = pooled_width(shape, config.grid)
        self.network = build_head(config.network, [shape] * views, outputs, seed=seed)

    def pool(self, features: Tensor) -> Tensor:
        """Return features of the last stage, [B, C, H, W] or [B, D], as one view, [B, D]."""
        return pool_to_grid(features, self.grid)

    def forward(self, *views: Tensor) -> Tensor:
        return self.network(torch.cat(views, 1) if len(views) > 1 else views[0])


def classified(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits [B, K] by labels int64 [B], and the share of hits."""
    hits = logits.argmax(1) == labels
    return F.cross_entropy(logits, labels), hits.float().mean()
