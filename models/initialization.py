"""Weight initialization by name, with the fans of dense, convolutional and transposed layers.

He et al. 2015, "Delving Deep into Rectifiers" (variance 2 / fan_in); Glorot and Bengio 2010,
"Understanding the difficulty of training deep feedforward neural networks"
(variance 2 / (fan_in + fan_out)).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from models.layers import ActivationName

InitializerName = Literal["he_normal", "he_uniform", "glorot_normal", "glorot_uniform"]

_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu")


def default_initializer(activation: ActivationName) -> InitializerName:
    """He (normal) before relu, leaky_relu, elu, gelu and silu; Glorot (uniform) before the others.

    selu asks for variance 1 / fan_in, which Glorot equals where fan_in = fan_out: it takes Glorot.
    """
    return "he_normal" if activation in _RECTIFIERS else "glorot_uniform"


def fans(layer: nn.Module) -> tuple[float, float]:
    """(fan_in, fan_out) of a Linear, ConvNd or ConvTransposeNd layer.

    fan_in is the number of inputs that one output sums: in_channels / groups × kernel area for a
    convolution. An output of a transposed convolution with stride s sums, on average, only
    in_channels / groups × kernel area / s^dims of them. fan_out is out_channels / groups × kernel
    area for both kinds.

    Raises:
        TypeError: for any other layer.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _ConvNd):
        area = math.prod(layer.kernel_size)
        fan_in = layer.in_channels / layer.groups * area
        if isinstance(layer, _ConvTransposeNd):
            fan_in /= math.prod(layer.stride)
        return fan_in, layer.out_channels / layer.groups * area
    raise TypeError(f"no fans are defined for {type(layer).__name__}")


def _draw_weight(
    weight: Tensor, fan_in: float, fan_out: float, name: InitializerName, generator: torch.Generator
) -> None:
    fan = fan_in if name.startswith("he") else (fan_in + fan_out)
    variance = 2.0 / fan
    if name.endswith("normal"):
        weight.normal_(0.0, math.sqrt(variance), generator=generator)
    else:
        bound = math.sqrt(3.0 * variance)
        weight.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialize(
    module: nn.Module,
    initializer: InitializerName | None,
    activation: ActivationName,
    generator: torch.Generator,
) -> None:
    """Draw all weights below `module` in the order of its layers; biases 0, norms to the identity.

    Args:
        initializer: a name, or None for the one that suits `activation`.
        activation: the activation that follows the layers; used only where `initializer` is None.
        generator: a CPU generator; the only source of randomness.
    """
    name = initializer or default_initializer(activation)
    for layer in module.modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            _draw_weight(layer.weight, *fans(layer), name, generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            layer.reset_parameters()
