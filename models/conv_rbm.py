"""Convolutional RBMs with probabilistic max pooling, and the encoder that they train.

Lee, Grosse, Ranganath & Ng 2009, "Convolutional Deep Belief Networks for Scalable Unsupervised
Learning of Hierarchical Representations". In each block of a hidden map at most one unit is on;
the pooled unit above the block is on where one of them is.

Shapes: B rows, C channels and H, W height and width of the visible units, K hidden maps, p side
of a block, h, w number of blocks in a column and in a row of a map (rounded up).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import DropoutConfig, PlainDropout
from models.initialization import InitializerConfig, Normal
from models.layers import same_conv
from models.rbm import Draws, Machine, visible_energy
from models.stages import CommonEncoderConfig, KernelSize, Stage, StageLayers, Widths


class ConvRbmEncoderConfig(CommonEncoderConfig):
    """Convolutions and the probability that a unit of each block is on: for convolutional RBMs."""

    kind: Literal["conv_rbm"] = "conv_rbm"
    widths: Widths = Field((32,), description="hidden maps of stage1, stage2, ...")
    kernel_size: KernelSize = Field(7, description="odd, in pixels")
    pool: int = Field(2, ge=1, le=64, description="side of the blocks of which one unit is on")
    norm: Literal["none"] = "none"
    activation: Literal["sigmoid"] = "sigmoid"
    initializer: InitializerConfig | None = Normal(std=0.01)
    spectral_norm: Literal[False] = False

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, value: DropoutConfig) -> DropoutConfig:
        if value != PlainDropout(rate=0.0):
            raise ValueError("found dropout, which probabilities do not allow: set it to 0")
        return value


class PoolInput(nn.Module):
    """The input of the pooled unit over each block: log of the sum of exp, [B, K, h, w].

    Its sigmoid is 1 - 1 / (1 + sum of exp), the probability that a unit of the block is on.
    """

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, inputs: Tensor) -> Tensor:
        return in_blocks(inputs.float(), self.pool).logsumexp(2)


def conv_rbm_stages(
    config: ConvRbmEncoderConfig, channels: int, height: int, width: int
) -> Iterator[Stage]:
    """Yield the stages for images of this shape; each divides height and width by `pool`."""
    for number, maps in enumerate(config.widths, start=1):
        convolution = same_conv(channels, maps, config.kernel_size)
        channels, height, width = maps, -(-height // config.pool), -(-width // config.pool)
        layers = StageLayers(convolution, PoolInput(config.pool), nn.Sigmoid())
        yield f"stage{number}", layers, (channels, height, width)


def in_blocks(inputs: Tensor, pool: int) -> Tensor:
    """Return inputs [B, K, H, W] by place in their block, [B, K, p * p, h, w].

    Blocks that the map does not fill are filled with -inf: units that are never on.
    """
    maps, height, width = inputs.shape[1:]
    fill = (0, -width % pool, 0, -height % pool)
    if any(fill):
        inputs = F.pad(inputs, fill, value=-torch.inf)
    # With the units of a map side by side, what follows is several times as fast.
    return F.pixel_unshuffle(inputs.contiguous(), pool).unflatten(1, (maps, -1))


def from_blocks(blocks: Tensor, height: int, width: int) -> Tensor:
    """Return the maps [B, K, H, W] that `in_blocks` cut up into [B, K, p * p, h, w]."""
    pool = math.isqrt(blocks.shape[2])
    return F.pixel_shuffle(blocks.flatten(1, 2), pool)[:, :, :height, :width]


@dataclass(frozen=True)
class ConvRbm(Machine):
    """Hidden maps over visible ones: weight [K, C, k, k], biases [K] and [C].

    The convolution keeps height and width, with zeros beyond the border.

    Attributes:
        pool: side of the blocks in which at most one hidden unit is on; 1: no pooling.
    """

    pool: int

    def hidden_input(self, visible: Tensor) -> Tensor:
        """Return what each hidden unit gets, [B, K, H, W]."""
        padding = self.weight.shape[-1] // 2
        inputs = F.conv2d(visible, self.weight, self.hidden_bias, padding=padding)
        return inputs.to(self.weight.dtype)

    def free_energy(self, visible: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the visible units' energy - sum over blocks of log(1 + sum of exp), [B]."""
        inputs = self.hidden_input(visible) if inputs is None else inputs
        of_visible = visible_energy(self.visible, visible, self.visible_bias.view(-1, 1, 1))
        pooled = in_blocks(inputs, self.pool).logsumexp(2)
        return of_visible - F.softplus(pooled).flatten(1).sum(1)

    def hidden_mean(self, inputs: Tensor) -> Tensor:
        """Return the probability of each hidden unit, [B, K, H, W]; of a block's at most 1."""
        return from_blocks(self._by_block(inputs), *inputs.shape[2:])

    def sample_hidden(self, inputs: Tensor, draws: Draws, purpose: str) -> Tensor:
        """Draw hidden units [B, K, H, W], at most one of each block being on."""
        until = self._by_block(inputs).cumsum(2)
        maps, _, *blocks = until.shape[1:]
        drawn = draws.rand(purpose, maps, 1, *blocks)
        # The first unit up to which the probabilities exceed the number; none, where none do.
        passed = (drawn < until).to(until.dtype)
        on = passed.diff(dim=2, prepend=torch.zeros_like(passed[:, :, :1]))
        return from_blocks(on, *inputs.shape[2:])

    def visible_input(self, hidden: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        inputs = F.conv_transpose2d(hidden, self.weight, self.visible_bias, padding=padding)
        return inputs.to(self.weight.dtype)

    def _by_block(self, inputs: Tensor) -> Tensor:
        """Return the probability of each unit of each block, [B, K, p * p, h, w]."""
        blocks = in_blocks(inputs, self.pool)
        # Over the sum of exp and the 1 of the state in which all are off.
        return (blocks - F.softplus(blocks.logsumexp(2, keepdim=True))).exp()
