"""A codebook: vectors that stand in for features, moved by averages instead of gradients.

van den Oord et al. 2017, "Neural Discrete Representation Learning", appendix A.1.

Shapes: B batch, D values of a vector, H height, W width, K codes, G rows of the global batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantized(NamedTuple):
    """Features with the codes in their place.

    Attributes:
        vectors: [B, D, H, W], each position's nearest code, without gradient.
        codes: int64 [B, H, W], which.
    """

    vectors: Tensor
    codes: Tensor


class Codebook(nn.Module):
    """K vectors that follow the mean of the features they stand for.

    It has no parameters. What `collect` takes in moves the codes in `update`, and so does, summed
    over ranks in between, what other ranks took in: then the codes stay equal on all.

    Attributes:
        vectors: [K, D], the codes.
        counts: [K], moving averages of how many positions of a global batch take each code.
        sums: [K, D], the same of the sum of their features.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    collected: Tensor

    def __init__(self, codes: int, width: int, *, seed: int) -> None:
        """Draw the codes from a standard normal by `seed`; the first update replaces them."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(codes, width, generator=generator)
        self.register_buffer("vectors", vectors)
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))
        # Of the step at hand alone: counts, sums and candidates, in one tensor to be summed.
        self.register_buffer("collected", torch.zeros(codes, 1 + 2 * width), persistent=False)

    def forward(self, features: Tensor) -> Quantized:
        """Return the nearest codes of features [B, D, H, W]."""
        rows = features.detach().float().movedim(1, -1)
        with torch.autocast(rows.device.type, enabled=False):
            # |row|^2 is the same for all codes.
            distances = self.vectors.square().sum(1) - 2 * rows @ self.vectors.T
        codes = distances.argmin(-1)
        return Quantized(F.embedding(codes, self.vectors).movedim(-1, 1), codes)

    def collect(self, features: Tensor, codes: Tensor, chosen: Tensor, start: int) -> None:
        """Take in the features of one micro-batch for the next `update`.

        Args:
            features: [B, D, H, W].
            codes: [B, H, W], from `forward`.
            chosen: int64 [K, 2], a row of the global batch and a position in it for each code:
                the feature that takes its place if it dies. Equal on all ranks.
            start: row of the global batch at which these begin.
        """
        rows = features.detach().float().movedim(1, -1).flatten(1, 2)
        flat = codes.flatten()
        count = flat.bincount(minlength=len(self.counts)).to(rows.dtype)
        total = torch.zeros_like(self.sums).index_add_(0, flat, rows.flatten(0, 1))
        row, position = chosen[:, 0] - start, chosen[:, 1]
        is_here = (row >= 0) & (row < len(rows))
        candidates = rows[row.clamp(0, len(rows) - 1), position] * is_here[:, None]
        self.collected += torch.cat([count[:, None], total, candidates], dim=1)

    def update(self, *, decay: float, dead_below: float) -> None:
        """Move the codes by what was collected, and revive the dead ones.

        Args:
            decay: of the averages, in [0, 1).
            dead_below: a code that is taken less often than this share of the mean is dead.
        """
        width = self.vectors.shape[1]
        count, total, candidates = self.collected.split((1, width, width), dim=1)
        self.counts.lerp_(count.squeeze(1), 1 - decay)
        self.sums.lerp_(total, 1 - decay)
        dead = self.dead(dead_below)
        # A revived code counts as one in mean use, so that it has time to find features.
        mean = self.counts.mean()
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[:, None], mean * candidates, self.sums))
        used = self.counts > 0
        followed = self.sums / self.counts.clamp_min(torch.finfo().tiny)[:, None]
        self.vectors.copy_(torch.where(used[:, None], followed, self.vectors))
        self.collected.zero_()

    def dead(self, below: float) -> Tensor:
        """Return which codes are taken less often than a share of the mean, bool [K]."""
        return self.counts < below * self.counts.mean()


def perplexity(codes: Tensor, number: int) -> Tensor:
    """Return exp of the entropy of how often each of K codes is taken: 1 to K.

    Args:
        codes: int64, any shape, not empty.
        number: K.
    """
    share = codes.flatten().bincount(minlength=number) / codes.numel()
    return torch.exp(-torch.special.xlogy(share, share).sum())
