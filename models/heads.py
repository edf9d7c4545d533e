"""Supervised heads on encoder features.

Shapes: B batch, C channels, H height, W width, D features, K classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import Dropout
from models.encoders import Encoder
from models.errors import ModelError
from models.initialization import initialize

Pooling = Literal["mean", "max", "generalized_mean"]

_SMALLEST = 1e-6


def pool_to_grid(
    features: Tensor, grid: int, pooling: Pooling = "mean", *, exponent: float = 3.0
) -> Tensor:
    """Pool feature maps [B, C, H, W] over a grid x grid raster -> [B, C * grid * grid].

    Features [B, D] are returned unchanged. Where height and width do not divide by `grid`, cells
    overlap by a pixel (adaptive pooling); maps smaller than the grid repeat values.

    Args:
        pooling: what a cell becomes: its mean, its largest value, or its generalized mean
            (Radenovic et al. 2019, "Fine-tuning CNN Image Retrieval with No Human Annotation").
        exponent: p of the generalized mean (mean of x^p)^(1/p), where values below 0 count as 0;
            1 or more: 1 is the mean, and a large one nearly the maximum.
    """
    if features.dim() == 2:
        return features
    if pooling == "generalized_mean":
        return _generalized_mean(features, grid, exponent).flatten(1)
    if features.shape[2:] == (grid, grid):
        return features.flatten(1)  # pooling would copy it slowly, and its gradient more so
    if pooling == "max":
        return F.adaptive_max_pool2d(features, grid).flatten(1)
    return F.adaptive_avg_pool2d(features, grid).flatten(1)


def _generalized_mean(features: Tensor, grid: int, exponent: float) -> Tensor:
    positive = features.clamp_min(0)
    # Powers of shares of a map's largest value do not overflow.
    largest = positive.amax(dim=(2, 3), keepdim=True).clamp_min(_SMALLEST)
    powers = (positive / largest).pow(exponent)
    return F.adaptive_avg_pool2d(powers, grid).pow(1 / exponent) * largest


def pooled_width(shape: Sequence[int], grid: int) -> int:
    """Number of values that `pool_to_grid` gives for features of `shape` (without batch axis)."""
    return shape[0] if len(shape) == 1 else shape[0] * grid * grid


class LinearHead(nn.Module):
    """Dropout and one linear layer: features [B, D] -> logits [B, K]; Glorot weights, zero bias."""

    def __init__(
        self, in_features: int, classes: int, *, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(in_features, classes)
        self.dropout = Dropout(dropout)
        initialize(self.linear, "glorot_uniform", "identity", torch.Generator().manual_seed(seed))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))


class Classifier(nn.Module):
    """An encoder under a linear head on stages pooled to a grid and concatenated.

    Args:
        encoder: used as it is (not copied); freezing it freezes it here.
        classes: number of classes, K.
        stages: names of the stages that the head reads (default: the last); no stage above the
            highest of them is computed.
        grid: side of the raster to which every stage is pooled.
        dropout: on the pooled features.
        seed: of the head's weights.
    Raises:
        ModelError: for an unknown stage.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        stages: Sequence[str] | None = None,
        grid: int = 4,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        wanted = list(encoder.stage_names[-1:] if stages is None else stages)
        unknown = [name for name in wanted if name not in encoder.output_shapes]
        if unknown or not wanted:
            raise ModelError(
                f"a head needs stages among {', '.join(encoder.stage_names)}, got {wanted}"
            )
        self.encoder = encoder
        self.stages = [name for name in encoder.stage_names if name in wanted]
        self.grid = grid
        width = sum(pooled_width(encoder.output_shapes[name], grid) for name in self.stages)
        self.head = LinearHead(width, classes, dropout=dropout, seed=seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] in [0, 1]."""
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Features [B, D] under the head of images [B, C, H, W] in [0, 1]."""
        features = self.encoder.stages(images, upto=self.stages[-1])
        pooled = [pool_to_grid(features[name], self.grid) for name in self.stages]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
