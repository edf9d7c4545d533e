"""Where curves of scores over labels reach a target, between the budgets that were measured."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["labels", "log_labels"]
Array = NDArray[np.float64]


def labels_reaching(scores: Array, budgets: Array, targets: Array | float, scale: Scale) -> Array:
    """Smallest numbers of labels at which curves, linear between budgets, reach their targets.

    Args:
        scores: [..., B], larger is better.
        budgets: [B], ascending.
        targets: [...] or one number.
        scale: what the curves are linear in.
    Returns:
        [...]; -inf where the smallest budget is above the target, inf where none reaches it.
    """
    targets = np.broadcast_to(targets, scores.shape[:-1])
    reached = scores >= targets[..., None]
    right = reached.argmax(axis=-1)
    left = np.maximum(right - 1, 0)
    below, above = (np.take_along_axis(scores, i[..., None], -1)[..., 0] for i in (left, right))
    gap = np.where(above > below, above - below, 1.0)
    share = np.where(right > 0, (targets - below) / gap, 0.0)
    places = np.log(budgets) if scale == "log_labels" else budgets
    found = places[left] + share * (places[right] - places[left])
    if scale == "log_labels":
        found = np.exp(found)
    found = np.where((right == 0) & (above > targets), -np.inf, found)
    return np.asarray(np.where(reached.any(axis=-1), found, np.inf))
