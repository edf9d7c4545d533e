"""Features of labelled images made ready for heads: standardized by their own statistics.

Shapes: N labelled rows, F features, P features after rotation, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_NULL_SPACE = 1e-6


@dataclass(frozen=True)
class Standardizer:
    """The affine map from raw features [F] to the rows [P] that heads are fitted on.

    Fields:
        mean, scale: [F]; standardized = (raw - mean) / scale.
        rotation: [F, P], orthonormal columns; None where nothing is rotated.
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor | None

    def on_raw_features(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Express a head, weight [P, C] and bias [C], as one on raw features, [F, C] and [C]."""
        if self.rotation is not None:
            weight = self.rotation @ weight
        weight = weight / self.scale[:, None]
        return weight, bias - self.mean @ weight


def standardize(raw: Tensor, *, floor: float, rotate: bool = True) -> tuple[Tensor, Standardizer]:
    """Standardize labelled rows [N, F] by their own statistics; rotate to N features if 2 N <= F.

    Mean and deviation are of these rows alone. No feature is divided by less than `floor` times
    the root mean square of all deviations: a feature that hardly varies among a few rows would
    be blown up on others. Finally all rows are divided by one number, so that their mean squared
    length is 1.

    The optimum of a head is the same in the rows' own basis: the penalty does not see rotations
    and the optimal weights lie in the span of the rows. A head that decomposes the rows itself
    has no use for that (`rotate`).
    """
    mean = raw.mean(dim=0)
    rows = raw - mean
    variance = rows.square().mean(dim=0)
    scale = variance.clamp_min(floor**2 * variance.mean()).clamp_min(1e-12).sqrt()
    rows /= scale
    length = rows.square().sum(dim=1).mean().sqrt().clamp_min(1e-6)
    rows /= length
    scale = scale * length
    N, F = rows.shape
    if 2 * N > F or not rotate:
        return rows, Standardizer(mean, scale, None)
    eigenvalues, vectors = torch.linalg.eigh((rows @ rows.T).double())
    spanned = eigenvalues > _NULL_SPACE * eigenvalues[-1]
    lengths = torch.where(spanned, eigenvalues, 0.0).sqrt()
    inverse = torch.where(spanned, 1 / lengths, 0.0)
    rotated = (vectors * lengths).to(rows.dtype)
    return rotated, Standardizer(mean, scale, rows.T @ (vectors * inverse).to(rows.dtype))
