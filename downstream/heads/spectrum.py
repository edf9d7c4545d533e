"""Left and right directions of a few rows, by one eigendecomposition of the smaller Gram matrix.

Shapes: N rows, P features, R directions that the rows span.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Eigenvalues below this share of the largest are rounding errors: of float32 features, even where
# they are decomposed in float64, and of a float32 Gram matrix.
_NULL_SPACE = {torch.float64: 1e-10, torch.float32: 1e-7}
_BLOCKS = 4


@dataclass(frozen=True)
class Spectrum:
    """Rows [N, P] as left * lengths @ right.T, in their own precision.

    Fields:
        rows: [N, P].
        squares: [R], the squared lengths, ascending: eigenvalues of both Gram matrices.
        vectors: the eigenvectors of the smaller Gram matrix: `left` where `wide`, else `right`.
        wide: whether there are no more rows than features.
    """

    rows: Tensor
    squares: Tensor
    vectors: Tensor
    wide: bool

    @cached_property
    def left(self) -> Tensor:
        """[N, R], orthonormal columns; a product as large as the decomposition where not wide."""
        return self.vectors if self.wide else self.rows @ self.vectors / self.squares.sqrt()

    @cached_property
    def right(self) -> Tensor:
        """[P, R], orthonormal columns; likewise where wide."""
        return self.rows.T @ self.vectors / self.squares.sqrt() if self.wide else self.vectors

    def loads(self, columns: Tensor) -> Tensor:
        """Return left.T @ columns, [R, C] of [N, C], without the left directions of many rows."""
        if self.wide:
            return self.vectors.T @ columns
        return self.vectors.T @ (self.rows.T @ columns) / self.squares.sqrt()[:, None]

    def weights(self, along: Tensor) -> Tensor:
        """Return right @ along, [P, C] of [R, C], without the right directions of many features."""
        if not self.wide:
            return self.vectors @ along
        return self.rows.T @ (self.vectors @ (along / self.squares.sqrt()[:, None]))


def spectrum(rows: Tensor) -> Spectrum:
    """Decompose rows [N, P] into the R directions that they span; R is 0 where all rows are."""
    N, P = rows.shape
    wide = N <= P
    squares, vectors = torch.linalg.eigh(_lower_gram(rows.T if wide else rows))
    spanned = squares > _NULL_SPACE[rows.dtype] * squares[-1]
    return Spectrum(rows, squares[spanned], vectors[:, spanned], wide)


def _lower_gram(columns: Tensor) -> Tensor:
    """Return columns.T @ columns of [M, G], right on and below the diagonal alone.

    That is all that is read of it, and little more than half of the work.
    """
    gram = columns.new_zeros(columns.shape[1], columns.shape[1])
    for block in torch.arange(len(gram), device=columns.device).chunk(_BLOCKS):
        first, last = int(block[0]), int(block[-1]) + 1
        torch.matmul(columns.T[first:], columns[:, first:last], out=gram[first:, first:last])
    return gram


def spectrum_flops(rows: int, features: int) -> int:
    """Return about how many floating-point operations decomposing rows [N, P] takes."""
    smaller, larger = sorted((rows, features))
    return 4 * smaller**2 * larger + 9 * smaller**3
