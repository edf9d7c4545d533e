"""Pictures of what an encoder has learned, and their order in a grid."""

import torch
from torch import Tensor, nn

from models.encoders import Encoder
from training.previews import COLUMNS

_MOST_FILTERS = 128


def first_layer_filters(encoder: Encoder) -> Tensor:
    """Return the lowest layer's weights as pictures [N, C, H, W], each scaled to [0, 1].

    Grey is zero; black and white are the filter's largest weight, negative and positive. Filters
    over more than three channels are shown as their mean over channels. At most 128 are shown,
    spread evenly over all.
    """
    lowest = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    weights = lowest.weight.detach().float()
    weights = weights[:: max(1, len(weights) // _MOST_FILTERS)][:_MOST_FILTERS]
    if weights.dim() == 2:
        shape = encoder.input
        weights = weights.unflatten(1, (shape.channels, shape.height, shape.width))
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(1, keepdim=True)
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo().tiny)
    return 0.5 + 0.5 * weights / largest


def in_rows(*pictures: Tensor) -> Tensor:
    """Return equally many pictures of several kinds, [N, C, H, W] each, a row of each in turn.

    So that in a grid those of one image stand below each other.
    """
    rows = zip(*(kind.split(COLUMNS) for kind in pictures), strict=True)
    return torch.cat([part for row in rows for part in row])
