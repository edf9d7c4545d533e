"""Attention pooling as a head, on maps standardized by channel.

Shapes: N labelled rows, F features, C channels of a stage, S side of its map.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from downstream.heads.networks import NetworkConfig, NetworkScores, fit_network
from downstream.heads.problems import Problems
from models.head_networks import AttentionHead, AttentionSpec
from models.stages import Shape


class AttentionConfig(NetworkConfig):
    """A head that learns where in each stage's map to look."""

    kind: Literal["attention"] = "attention"
    queries: int = Field(8, ge=1, le=256, description="vectors that are pooled from each stage")
    grid: PositiveInt = Field(7, description="side of the raster of positions; no map is enlarged")

    def spec(self) -> AttentionSpec:
        """Return what the network is."""
        return AttentionSpec(queries=self.queries)


def fit_attention(
    problems: Problems, config: AttentionConfig, shapes: Sequence[Shape], *, seeds: Sequence[int]
) -> list[NetworkScores]:
    """Choose weight decay and steps of each problem inside its labels, then train on all of them.

    Features are maps: [C * S * S] for each stage, one after the other.

    Args:
        shapes: (C, S, S) of each stage.
        seeds: of weights, batches and dropout, one for each problem.
    Raises:
        ModelError: a stage without positions.
    """

    def make(seed: int) -> AttentionHead:
        outputs = problems.output.width(problems.classes)
        return AttentionHead(shapes, config.queries, outputs, dropout=config.dropout, seed=seed)

    heads = []
    for number, raw in enumerate(problems.features):
        mean, scale = channel_statistics(raw, shapes, floor=problems.std_floor)
        by_feature = [s[1] * s[2] for s in shapes for _ in range(s[0])]
        repeats = torch.tensor(by_feature, device=raw.device)
        rows = (raw - mean.repeat_interleave(repeats)) / scale.repeat_interleave(repeats)
        network, choices = fit_network(rows, problems, number, config, make, seeds[number])
        network.on_raw_channels(mean, scale)
        heads.append(NetworkScores(network, problems.output, choices))
    return heads


def channel_statistics(
    raw: Tensor, shapes: Sequence[Shape], *, floor: float
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel of maps [N, F], stage by stage, [sum of C] each.

    No deviation is below `floor` times the root mean square of all.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = [
        part.view(len(part), shape[0], -1)
        for part, shape in zip(raw.split(sizes, dim=1), shapes, strict=True)
    ]
    mean = torch.cat([part.mean(dim=(0, 2)) for part in parts])
    variance = torch.cat([part.var(dim=(0, 2), correction=0) for part in parts])
    return mean, variance.clamp_min(floor**2 * variance.mean()).clamp_min(1e-12).sqrt()
