"""All ranks' rows on each rank, for losses that compare the images of a whole batch.

Shapes: B rows at hand, R ranks, D values of a row.
"""

from typing import Any

import torch
from torch import Tensor

from training.compute import has_ranks


def rows_of_all_ranks(rows: Tensor) -> Tensor:
    """Return the rows [B, D] of all ranks in order, [R * B, D]; where there is one, these.

    Differentiable: the gradient of a rank's rows is the sum of what all ranks' losses give them, so
    that the mean over ranks of each one's gradients is that of the mean of their losses. Every rank
    must call it, with as many rows; backward passes meet each other too.
    """
    if not has_ranks():
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def rank_count() -> int:
    """Return how many ranks there are."""
    return torch.distributed.get_world_size() if has_ranks() else 1


def first_row_here(rows: int) -> int:
    """Return where `rows` rows of this rank begin among those of all ranks."""
    return torch.distributed.get_rank() * rows if has_ranks() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(rank_count())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        start = first_row_here(ctx.rows)
        return total[start : start + ctx.rows]
