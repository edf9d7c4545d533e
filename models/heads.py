"""Classifiers: an encoder under a head, and the pooling between them.

Shapes: B batch, C channels, H height, W width, D features, K classes, labels or quantities.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders import Encoder
from models.errors import ModelError
from models.head_networks import HeadSpec, LinearSpec, build_head
from models.outputs import Classes, Output
from models.stages import Shape

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


def pooled_shapes(encoder: Encoder, stages: Sequence[str], grid: int) -> list[Shape]:
    """Shapes of an encoder's stages as heads read them: (C, grid, grid), or (D,)."""
    shapes = [encoder.output_shapes[name] for name in stages]
    return [shape if len(shape) == 1 else (shape[0], grid, grid) for shape in shapes]


class Classifier(nn.Module):
    """An encoder under a head on stages pooled to a grid and concatenated.

    Args:
        encoder: used as it is (not copied); freezing it freezes it here.
        classes: number of classes, labels or quantities, K.
        stages: names of the stages that the head reads (default: the last); no stage above the
            highest of them is computed.
        grid: side of the raster to which every stage is pooled.
        dropout: on what the head's last layer reads.
        seed: of the head's weights.
        output: what the scores mean; None: one class of K.
        network: what the head is; None: one linear layer.
    Raises:
        ModelError: for an unknown stage, or one that the head cannot read.
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
        output: Output | None = None,
        network: HeadSpec | None = None,
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
        self.output = output or Classes()
        self.network = network or LinearSpec()
        self.head = build_head(
            self.network,
            pooled_shapes(encoder, self.stages, grid),
            self.output.width(classes),
            dropout=dropout,
            seed=seed,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores [B, K] of images [B, C, H, W] in [0, 1]: of classes, their logits."""
        return self.output.scores(self.head(self.pooled(images)))

    def pooled(self, images: Tensor) -> Tensor:
        """Features [B, D] under the head of images [B, C, H, W] in [0, 1]."""
        features = self.encoder.stages(images, upto=self.stages[-1])
        pooled = [pool_to_grid(features[name], self.grid) for name in self.stages]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
