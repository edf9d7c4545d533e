"""Left and right directions of a few rows, by one eigendecomposition of the smaller Gram matrix.

Shapes: N rows, P features, R directions that the rows span.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_NULL_SPACE = 1e-10


@dataclass(frozen=True)
class Spectrum:
    """Rows [N, P] as left * lengths @ right.T.

    Fields:
        left: float64 [N, R]; right: float64 [P, R]; both with orthonormal columns.
        squares: float64 [R], the squared lengths, ascending: eigenvalues of both Gram matrices.
    """

    left: Tensor
    squares: Tensor
    right: Tensor


def spectrum(rows: Tensor) -> Spectrum:
    """Decompose rows float64 [N, P] into the R directions that they span.

    Directions shorter than 1e-5 of the longest are rounding errors of float32 features. R is 0
    where all rows are.
    """
    N, P = rows.shape
    wide = N <= P
    squares, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    spanned = squares > _NULL_SPACE * squares[-1]
    squares, vectors = squares[spanned], vectors[:, spanned]
    others = (rows.T if wide else rows) @ vectors / squares.sqrt()
    return Spectrum(vectors, squares, others) if wide else Spectrum(others, squares, vectors)


def spectrum_flops(rows: int, features: int) -> int:
    """Return about how many floating-point operations decomposing rows [N, P] takes."""
    smaller, larger = sorted((rows, features))
    return 4 * smaller**2 * larger + 9 * smaller**3
