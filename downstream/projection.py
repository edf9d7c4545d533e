"""Principal directions of features, from unlabelled images: PCA (Pearson 1901) and whitening.

Shapes: B rows at a time, F features, K directions kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.errors import InputError
from training.randomness import derive_seed

Transform = Literal["none", "pca", "whiten"]

# Variances below this share of the largest are rounding errors of float32 features.
_NULL_SPACE = 1e-6


@dataclass(frozen=True)
class Projection:
    """An affine map of features.

    Fields:
        mean: float64 [F].
        directions: float64 [F, K], that of the largest variance first.
    """

    mean: Tensor
    directions: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """Return features [B, F] in K coordinates, float32 [B, K]."""
        # In float32 the smallest deviations, by which whitening divides, would drown.
        return ((features.double() - self.mean) @ self.directions).float()


@dataclass(frozen=True)
class StandardizedAxes:
    """Coordinates of features: (features - mean) / scale @ axes.

    Fields:
        mean, scale: [F]; axes: [F, K], orthonormal.
        deviations: [K], of the rows along each, descending.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    deviations: Tensor


def fit_projection(
    blocks: Iterable[Tensor], transform: Transform, *, components: int | None
) -> Projection:
    """Return the projection onto the principal directions of rows, read once, block by block.

    Args:
        blocks: features [B, F], on one device; only their covariance [F, F] is held in memory.
        transform: "pca" keeps lengths and angles; "whiten" divides by the deviation along each
            direction, so that the rows' covariance is the identity.
        components: the most directions to keep; None: all along which the rows vary.
    Raises:
        InputError: all rows are the same; one line.
    """
    mean, covariance = _moments(blocks)
    variances, vectors = torch.linalg.eigh(covariance)
    variances, vectors = variances.flip(0), vectors.flip(1)
    kept = int((variances > _NULL_SPACE * variances[0]).sum())
    if kept == 0:
        raise InputError(
            f"features.transform: found {transform}, but the features of all training images are "
            "the same; take none, or other stages"
        )
    kept = kept if components is None else min(kept, components)
    variances, vectors = variances[:kept], vectors[:, :kept]
    # An eigenvector's sign is the solver's choice: the largest entry is made positive.
    largest = vectors.abs().argmax(dim=0, keepdim=True)
    directions = vectors * vectors.gather(0, largest).sign()
    return Projection(mean, directions / variances.sqrt() if transform == "whiten" else directions)


def standardized_axes(features: Tensor, most: int, *, std_floor: float) -> StandardizedAxes:
    """Return the leading principal directions of features [N, F], once standardized.

    By random projections (Halko, Martinsson & Tropp 2011), from a seed of their own: enough to
    compare images along them, and a tenth of the time that all directions take.

    Args:
        most: directions to keep; fewer where N or F is smaller.
        std_floor: smallest divisor of a feature, as in heads.standardize.
    """
    mean = features.mean(dim=0)
    rows = features - mean
    variance = rows.square().mean(dim=0)
    scale = variance.clamp_min(std_floor**2 * variance.mean()).clamp_min(1e-12).sqrt()
    rows /= scale
    with torch.random.fork_rng(devices=[]):  # the solver draws where it begins
        torch.manual_seed(derive_seed(0, "principal axes"))
        _, lengths, axes = torch.pca_lowrank(rows, q=min(most, *rows.shape), center=False)
    return StandardizedAxes(mean, scale, axes, lengths / len(rows) ** 0.5)


def _moments(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean [F] and covariance [F, F] of all rows, float64."""
    count = 0
    origin = total = squares = torch.empty(0)
    for block in blocks:
        rows = block.double()
        if count == 0:
            # Near the mean: sums of squares far from it would lose digits.
            origin = rows.mean(dim=0)
            total = torch.zeros_like(origin)
            squares = torch.zeros_like(origin.outer(origin))
        rows = rows - origin
        count += len(rows)
        total += rows.sum(dim=0)
        squares.addmm_(rows.T, rows)
    shift = total / count
    return origin + shift, squares / count - shift.outer(shift)
