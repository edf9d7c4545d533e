"""Normalization and activation layers by name, as encoders and decoders use them."""

import math
from typing import Literal

from torch import nn

NormName = Literal["batch", "layer", "group", "none"]
ActivationName = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "selu", "identity"
]

GROUPS = 8


def make_norm(name: NormName, width: int, *, spatial: bool) -> nn.Module | None:
    """Normalization over the channels of [B, width, H, W] (spatial) or [B, width]; None for none.

    `layer` normalizes each sample over all its channels (and positions); `group` over 8 groups of
    channels, or the largest number of groups below that divides both 8 and the width.
    """
    if name == "none":
        return None
    if name == "batch":
        return nn.BatchNorm2d(width) if spatial else nn.BatchNorm1d(width)
    return nn.GroupNorm(1 if name == "layer" else math.gcd(width, GROUPS), width)


def make_activation(name: ActivationName) -> nn.Module | None:
    """The activation layer of that name; None for identity."""
    match name:
        case "identity":
            return None
        # In place: what comes before (a norm or a convolution) does not need its output again.
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)
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


def layer_group(
    transform: nn.Module,
    width: int,
    *,
    norm: NormName,
    activation: ActivationName,
    spatial: bool,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """`transform`, then its norm, activation and dropout, as far as each is asked for."""
    layers: list[nn.Module | None] = [
        transform,
        make_norm(norm, width, spatial=spatial),
        make_activation(activation),
        nn.Dropout(dropout) if dropout > 0 else None,
    ]
    return [layer for layer in layers if layer is not None]
