"""The units of a layer: which of a weight's values come together in one output."""

import torch
from torch import Tensor, nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def transposed_groups(module: nn.Module) -> dict[nn.Parameter, int]:
    """Return the weight of every transposed convolution with its number of groups.

    Their outputs lie on the weight's second axis, where all other layers have their inputs.
    """
    return {
        weight: child.groups
        for child in module.modules()
        if isinstance(child, TRANSPOSED)
        for weight in [child.get_parameter("weight")]
    }


def unit_norms(value: Tensor, groups: int = 0) -> Tensor:
    """Return the Euclidean norm of each unit's incoming weights.

    Args:
        value: a weight or its gradient: [out, in, ...]; [in, out / groups, ...] of a transposed
            convolution; with fewer than two axes all of it is one unit.
        groups: groups of a transposed convolution, 0 for all other layers.
    Returns:
        Norms of a shape that broadcasts over `value`.
    """
    if value.ndim < 2:
        return torch.linalg.vector_norm(value)
    if groups == 0:
        return torch.linalg.vector_norm(value, dim=tuple(range(1, value.ndim)), keepdim=True)
    in_all, out, *kernel = value.shape
    by_group = value.reshape(groups, in_all // groups, out, *kernel)
    rest = tuple(range(3, by_group.ndim))
    norms = torch.linalg.vector_norm(by_group, dim=(1, *rest), keepdim=True)
    ones = [1] * len(kernel)
    return norms.expand(groups, in_all // groups, out, *ones).reshape(in_all, out, *ones)
