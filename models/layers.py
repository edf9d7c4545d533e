"""Normalization and activation layers by name, as encoders and decoders use them."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormName = Literal["batch", "layer", "channel_layer", "group", "instance", "rms", "none"]
ActivationName = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "selu", "identity"
]

GROUPS = 8
_LEAST_IN_DENSE_GROUP = 8


class RMSNorm(nn.Module):
    """Divide by the root mean square over channels, then scale each channel; no shift.

    Takes [B, width], or [B, width, H, W], where each position is divided by its own
    (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def reset_parameters(self) -> None:
        """Set every scale to 1."""
        nn.init.ones_(self.weight)

    def forward(self, features: Tensor) -> Tensor:
        mean_square = features.float().square().mean(dim=1, keepdim=True)
        scale = torch.rsqrt(mean_square + self.eps).to(features.dtype)
        weight = self.weight.to(features.dtype).view(-1, *(1,) * (features.dim() - 2))
        return features * scale * weight


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, width] or [B, width, H, W], each position by itself."""

    def forward(self, input: Tensor) -> Tensor:
        # Channels last in memory, as images are here, both moves are free.
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    RMSNorm,
)
"""What encoders are made of; all have `weight` and `reset_parameters()`."""


def shifts(norm: NormName) -> bool:
    """Whether a norm subtracts a mean and adds its own shift, so that a bias below it is idle."""
    return norm not in ("none", "rms")


def make_norm(name: NormName, width: int, *, spatial: bool) -> nn.Module | None:
    """Normalization over the channels of [B, width, H, W] (spatial) or [B, width]; None for none.

    `batch` normalizes each channel over the batch (and positions); `layer` each sample over all its
    channels (and positions); `channel_layer` each position of each sample over its channels;
    `group` over 8 groups of channels, or the largest number of groups below that divides both 8
    and the width; `instance` each channel of each sample over its positions; `rms` each position
    of each sample over its channels, by its root mean square.
    Dense groups have 8 features at least: of one or two, normalizing leaves only signs.

    Raises:
        ValueError: `instance` where there are no positions.
    """
    match name:
        case "none":
            return None
        case "batch":
            return nn.BatchNorm2d(width) if spatial else nn.BatchNorm1d(width)
        case "layer":
            return nn.GroupNorm(1, width)
        case "channel_layer":
            return ChannelLayerNorm(width)
        case "group":
            return nn.GroupNorm(_groups(width, spatial=spatial), width)
        case "instance":
            if not spatial:
                raise ValueError("instance norm needs positions to normalize over")
            return nn.InstanceNorm2d(width, affine=True)
        case "rms":
            return RMSNorm(width)


def _groups(width: int, *, spatial: bool) -> int:
    groups = math.gcd(width, GROUPS)
    while not spatial and groups > 1 and width // groups < _LEAST_IN_DENSE_GROUP:
        groups //= 2
    return groups


def normalizes_lone_values(name: NormName, shape: Sequence[int]) -> bool:
    """Whether a norm has only one value at a time to normalize, of which it leaves nothing.

    Args:
        shape: what is normalized, without the batch axis: (C, H, W) or (D,).
    """
    width, positions = shape[0], math.prod(shape[1:])
    match name:
        case "none" | "batch":
            return False
        case "layer":
            return width * positions == 1
        case "group":
            return width // _groups(width, spatial=len(shape) > 1) * positions == 1
        case "instance":
            return positions == 1
        case "rms" | "channel_layer":
            return width == 1


def make_activation(name: ActivationName, *, inplace: bool = True) -> nn.Module | None:
    """The activation layer of that name; None for identity.

    Args:
        inplace: overwrite the input, as behind a norm or a convolution, which do not need their
            output again; where the activation allows it.
    """
    match name:
        case "identity":
            return None
        case "relu":
            return nn.ReLU(inplace)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace)
        case "elu":
            return nn.ELU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU()
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "selu":
            return nn.SELU()


def same_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """A convolution that divides height and width by its stride, rounded up; odd kernel size."""
    if kernel_size == 1:
        return _OnePixelConv2d(in_channels, out_channels, 1, stride, bias=bias)
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)


class _OnePixelConv2d(nn.Conv2d):
    """A convolution of one pixel. Where it is strided, it picks the pixels itself.

    On a CPU, channels last, torch 2.13 (oneDNN 3.12) writes outside its memory in the backward
    pass of the strided convolution of fewer than 8 channels.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], self.weight, self.bias)


def layer_group(
    transform: nn.Module,
    width: int,
    *,
    norm: NormName,
    activation: ActivationName,
    spatial: bool,
    dropout: nn.Module | None = None,
) -> list[nn.Module]:
    """`transform`, then its norm and activation, as far as each is asked for, then `dropout`."""
    return present(
        transform, make_norm(norm, width, spatial=spatial), make_activation(activation), dropout
    )


def present(*layers: nn.Module | None) -> list[nn.Module]:
    """The layers that are there."""
    return [layer for layer in layers if layer is not None]
