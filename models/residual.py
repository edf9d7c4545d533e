"""The residual encoder: stages of basic blocks, whose branch is added to what they were given.

He et al. 2016, "Deep Residual Learning for Image Recognition" (activation after the addition) and
"Identity Mappings in Deep Residual Networks" (norm and activation before each convolution).

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.dropout import StochasticDepth, make_dropout
from models.layers import layer_group, make_activation, make_norm, present, same_conv, shifts
from models.stages import CommonEncoderConfig, KernelSize, Stage, StageLayers, Width, Widths


class ResidualEncoderConfig(CommonEncoderConfig):
    """Residual blocks above an unstrided stem: each stage halves height and width (rounded up)."""

    kind: Literal["residual"] = "residual"
    stem: Width = Field(32, description="channels of the unstrided convolution below stage1")
    widths: Widths = Field((32, 64, 128), description="channels of stage1, stage2, ...")
    blocks: int = Field(2, ge=1, le=64, description="per stage; the first has stride 2")
    kernel_size: KernelSize = Field(3, description="odd, in pixels")
    activation_order: Literal["post", "pre"] = Field(
        "post",
        description="activation after the addition, or norm and activation before each "
        "convolution, with one more of both above the last stage",
    )
    stochastic_depth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that the last block's branch is dropped for a sample; below it rises "
        "linearly from the first block on (Huang et al. 2016)",
    )
    zero_init_residual: bool = Field(
        True,
        description="start with branches that add nothing: the last norm's scale, or without a "
        "norm there the last convolution, is 0 (Goyal et al. 2017)",
    )

    @property
    def branch_ends_in_norm(self) -> bool:
        """Whether the last layer of a branch with weights is a norm."""
        return self.activation_order == "post" and self.norm != "none"

    @model_validator(mode="after")
    def _no_spectral_norm_of_zero(self) -> "ResidualEncoderConfig":
        if self.spectral_norm and self.zero_init_residual and not self.branch_ends_in_norm:
            raise ValueError(
                "found spectral_norm, which cannot divide the zero convolutions of "
                "zero_init_residual: set zero_init_residual to false, or take a norm and "
                "activation_order post"
            )
        return self


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to a shortcut: [B, C, H, W] -> [B, C', H', W'].

    The shortcut is the identity, or a convolution of one pixel where the shape changes.
    """

    def __init__(
        self,
        config: ResidualEncoderConfig,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        drop_rate: float,
    ) -> None:
        super().__init__()
        is_pre = config.activation_order == "pre"
        bias = not shifts(config.norm)
        before: list[nn.Module] = []
        if is_pre:
            before = present(
                make_norm(config.norm, in_channels, spatial=True),
                # Without a norm its input is also what the shortcut passes on.
                make_activation(config.activation, inplace=config.norm != "none"),
            )
        self.before = nn.Sequential(*before)
        kernel_size = config.kernel_size
        first = same_conv(in_channels, out_channels, kernel_size, stride=stride, bias=bias)
        second = same_conv(out_channels, out_channels, kernel_size, bias=bias)
        self.branch = nn.Sequential(
            *layer_group(
                first,
                out_channels,
                norm=config.norm,
                activation=config.activation,
                spatial=True,
                dropout=make_dropout(config.dropout),
            ),
            *present(
                second, None if is_pre else make_norm(config.norm, out_channels, spatial=True)
            ),
        )
        self.drop = StochasticDepth(drop_rate)
        self.projection: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            projection = same_conv(in_channels, out_channels, 1, stride=stride, bias=bias)
            norm = None if is_pre else make_norm(config.norm, out_channels, spatial=True)
            self.projection = nn.Sequential(*present(projection, norm))
        activation = None if is_pre else make_activation(config.activation)
        self.after = nn.Sequential(*present(activation))

    def forward(self, features: Tensor) -> Tensor:
        normalized = self.before(features)
        shortcut = features if self.projection is None else self.projection(normalized)
        return self.after(shortcut + self.drop(self.branch(normalized)))

    @torch.no_grad()
    def zero_end(self) -> None:
        """Let the branch add nothing: its last norm or, without one, convolution becomes 0."""
        last = self.branch[-1]
        for parameter in last.parameters():
            parameter.zero_()


def residual_stages(
    config: ResidualEncoderConfig, channels: int, height: int, width: int
) -> Iterator[Stage]:
    """Yield the stages for images of this shape, the stem first."""
    is_pre = config.activation_order == "pre"
    bias = not shifts(config.norm)
    stem = same_conv(channels, config.stem, config.kernel_size, bias=bias)
    normalized = layer_group(
        stem, config.stem, norm=config.norm, activation=config.activation, spatial=True
    )
    # In pre order the first block normalizes what the stem gives.
    layers: list[nn.Module] = [stem] if is_pre else normalized
    yield "stem", StageLayers(*layers), (config.stem, height, width)
    channels = config.stem
    total = len(config.widths) * config.blocks
    for stage, out_channels in enumerate(config.widths):
        layers = []
        for block in range(config.blocks):
            rate = config.stochastic_depth * (stage * config.blocks + block + 1) / total
            stride = 2 if block == 0 else 1
            layers.append(
                ResidualBlock(config, channels, out_channels, stride=stride, drop_rate=rate)
            )
            channels = out_channels
        if is_pre and stage == len(config.widths) - 1:
            norm = make_norm(config.norm, channels, spatial=True)
            layers += present(norm, make_activation(config.activation))
        height, width = (height + 1) // 2, (width + 1) // 2
        yield f"stage{stage + 1}", StageLayers(*layers), (channels, height, width)
