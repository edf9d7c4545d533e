"""The ConvNeXt-like encoder: depthwise convolutions and a perceptron at each position.

Liu et al. 2022, "A ConvNet for the 2020s".

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import StochasticDepth, make_dropout
from models.initialization import InitializerConfig, TruncatedNormal
from models.layers import ActivationName, NormName, layer_group, make_norm, present, same_conv
from models.stages import CommonEncoderConfig, KernelSize, Stage, StageLayers, Widths


class ConvNextEncoderConfig(CommonEncoderConfig):
    """ConvNeXt blocks above a stem of patches: each stage from stage2 on halves the size."""

    kind: Literal["convnext"] = "convnext"
    stem_patch: int = Field(2, ge=1, le=64, description="side in pixels of the stem's patches")
    widths: Widths = Field((32, 64, 128), description="channels of stage1, stage2, ...")
    blocks: int = Field(2, ge=1, le=64, description="per stage")
    kernel_size: KernelSize = Field(7, description="of the depthwise convolutions; odd, in pixels")
    expansion: int = Field(4, ge=1, le=16, description="hidden units per channel of a block")
    layer_scale: float | None = Field(
        1e-6, gt=0, description="what each channel of a branch is first scaled by; null: no scales"
    )
    stochastic_depth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that the last block's branch is dropped for a sample; below it rises "
        "linearly from the first block on (Huang et al. 2016)",
    )
    norm: NormName = "channel_layer"
    activation: ActivationName = "gelu"
    initializer: InitializerConfig | None = TruncatedNormal()

    @model_validator(mode="after")
    def _no_spectral_norm(self) -> "ConvNextEncoderConfig":
        if self.spectral_norm:
            raise ValueError(
                "found spectral_norm, which takes the channels of a depthwise convolution for one "
                "matrix and divides them by far too much: set it to false, or take kind residual"
            )
        return self


class PatchConv2d(nn.Conv2d):
    """A linear map of patches that do not overlap; zeros fill up the last row and column."""

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__(in_channels, out_channels, patch, patch)

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = (
            -side % patch for side, patch in zip(input.shape[2:], self.stride, strict=True)
        )
        if rows or columns:
            input = F.pad(input, (0, columns, 0, rows))
        return super().forward(input)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm and a perceptron at each position, added to the input."""

    def __init__(self, config: ConvNextEncoderConfig, channels: int, *, drop_rate: float) -> None:
        super().__init__()
        kernel_size, hidden = config.kernel_size, config.expansion * channels
        depthwise = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        self.branch = nn.Sequential(
            *present(depthwise, make_norm(config.norm, channels, spatial=True)),
            *layer_group(
                same_conv(channels, hidden, 1),
                hidden,
                norm="none",
                activation=config.activation,
                spatial=True,
                dropout=make_dropout(config.dropout),
            ),
            same_conv(hidden, channels, 1),
        )
        self.scale: nn.Parameter | None = None
        if config.layer_scale is not None:
            self.scale = nn.Parameter(torch.full((channels,), config.layer_scale))
        self.drop = StochasticDepth(drop_rate)

    def forward(self, features: Tensor) -> Tensor:
        branch = self.branch(features)
        if self.scale is not None:
            branch = branch * self.scale.view(-1, 1, 1)
        return features + self.drop(branch)


def convnext_stages(
    config: ConvNextEncoderConfig, channels: int, height: int, width: int
) -> Iterator[Stage]:
    """Yield the stages for images of this shape, the stem first; a norm ends the last."""
    first, patch = config.widths[0], config.stem_patch
    height, width = -(-height // patch), -(-width // patch)
    stem = PatchConv2d(channels, first, patch)
    layers = present(stem, make_norm(config.norm, first, spatial=True))
    yield "stem", StageLayers(*layers), (first, height, width)
    channels, total = first, len(config.widths) * config.blocks
    for stage, out_channels in enumerate(config.widths):
        layers = []
        if stage > 0:
            norm = make_norm(config.norm, channels, spatial=True)
            layers = present(norm, PatchConv2d(channels, out_channels, 2))
            height, width = -(-height // 2), -(-width // 2)
        for block in range(stage * config.blocks, (stage + 1) * config.blocks):
            rate = config.stochastic_depth * (block + 1) / total
            layers.append(ConvNextBlock(config, out_channels, drop_rate=rate))
        if stage == len(config.widths) - 1:
            layers += present(make_norm(config.norm, out_channels, spatial=True))
        channels = out_channels
        yield f"stage{stage + 1}", StageLayers(*layers), (channels, height, width)
