"""How far an encoder's weights have grown from the size that they were drawn with."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from models.encoders import Encoder
from models.layers import NORM_LAYERS
from models.spectral import plain_state_dict


@dataclass(frozen=True)
class WeightGrowth:
    """How large weights are beside fresh ones.

    Attributes:
        weight_growth: of the layer whose weights have grown most, their root mean square in units
            of that of fresh weights, 0 or more. Well above 1: steps were far too long, and have
            thrown the weights out of where they were drawn. nan: a norm makes the features the
            same whatever the weights' size.
    """

    weight_growth: float


def weight_growth(encoder: Encoder, fresh: Encoder) -> WeightGrowth:
    """Compare an encoder with one of the same config and fresh weights; both stay as they are."""
    if any(isinstance(part, NORM_LAYERS) for part in encoder.modules()):
        return WeightGrowth(float("nan"))
    sizes, drawn = _sizes(encoder), _sizes(fresh)
    # A layer that begins at zero, such as the last of a residual block, has no size to grow from.
    return WeightGrowth(max(sizes[name] / size for name, size in drawn.items() if size > 0))


def _sizes(encoder: Encoder) -> dict[str, float]:
    """The root mean square of the weights of every dense and convolutional layer, by its name."""
    state = plain_state_dict(encoder)
    return {
        name: torch.linalg.vector_norm(weight.double()).item() / weight.numel() ** 0.5
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
        for weight in [state[f"{name}.weight"]]
    }
