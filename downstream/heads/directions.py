"""Standardized rows scaled to length 1, whose inner products are cosines.

Shapes: M rows, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Directions:
    """The map from raw features to standardized rows of length 1.

    Fields:
        mean, scale: [F], as of a `Standardizer`. Its rotation, to what the labelled rows span, is
            left out: what lies outside counts in the length of other rows.
    """

    mean: Tensor
    scale: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Return the directions of raw features [M, F]."""
        return F.normalize((features - self.mean) / self.scale, dim=1)

    def scored(self, features: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Score the directions of raw features [M, F] a block of rows at a time.

        Blocks are moved to where the mean lies, and their scores back, so that memory there does
        not grow with M.
        """
        blocks = features.split(ROWS_AT_ONCE)
        scores = [score(self.of(part.to(self.mean.device))) for part in blocks]
        return torch.cat([part.to(features.device) for part in scores])
