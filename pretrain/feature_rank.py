"""In how many directions an encoder's features vary: few, where they have collapsed.

Shapes: N images, F features, C channels, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoders import Encoder
from pretrain.reference import reference_features

# Of all values' root mean square: what varies less is constant but for rounding.
_LEAST_STD = 1e-4


def effective_rank(rows: Tensor) -> float:
    """Return exp of the entropy of the eigenvalues of the correlation matrix of rows [N, F].

    Roy & Vetterli 2007, "The Effective Rank: A Measure of Effective Dimensionality". Each feature
    is standardized first, as for a linear head, so that no stage counts more for its scale;
    constant ones count nothing.

    Returns:
        1 to min(N - 1, F): 1 where all features are copies of one, F where none depends on another;
        0 where nothing varies, nan where a value is not finite.
    """
    if not rows.isfinite().all():
        return float("nan")
    std = rows.std(0)
    varies = std > _LEAST_STD * rows.square().mean().sqrt()
    if not varies.any():
        return 0.0
    standard = ((rows - rows.mean(0)) / std)[:, varies]
    variances = torch.linalg.svdvals(standard).square()
    return torch.special.entr(variances / variances.sum()).sum().exp().item()


@dataclass(frozen=True)
class FeatureRank:
    """How varied the features of the encoder that is kept are. nan: they are not finite.

    Attributes:
        effective_rank: of the mean over positions of all stages' features, as `effective_rank`.
        relative_rank: that in units of the same encoder's with fresh weights, 0 or more. Well
            below 1: the features have collapsed to a few directions.
    """

    effective_rank: float
    relative_rank: float


class RankMeasure:
    """Real images, on which encoders of one config are compared with one of fresh weights."""

    def __init__(self, fresh: Encoder, real: Tensor) -> None:
        """Look at real images uint8 [N, C, H, W], N at least 2, with an encoder in eval mode."""
        self._real = real
        self._of_fresh = effective_rank(reference_features(fresh, real))

    def measure(self, encoder: Encoder) -> FeatureRank:
        """Measure an encoder, in eval mode."""
        rank = effective_rank(reference_features(encoder, self._real))
        return FeatureRank(rank, rank / self._of_fresh)
