"""A copy of a module that follows it as an exponential moving average of its values."""

import copy
from itertools import chain
from typing import Generic, TypeVar

from torch import nn

from training.averaging import ema_share, move_averages

Module = TypeVar("Module", bound=nn.Module)


class MovingCopy(nn.Module, Generic[Module]):
    """Owns the copy as `module`, without gradients and in eval mode whatever `train()` says.

    Unlike `ParameterAverage` it lies in the module that owns it, and so in its checkpoints: for an
    objective that needs the average while it trains, or of a part of its networks alone.
    """

    module: Module

    def __init__(self, followed: Module, decay: float) -> None:
        """Copy `followed` as it is now; `decay` as `ema_share` takes it."""
        super().__init__()
        self.module = copy.deepcopy(followed)
        self.module.requires_grad_(False).eval()
        self._decay = decay

    def follow(self, followed: Module, step: int) -> None:
        """Take in the values after a step, counted from 0; integer buffers are copied."""
        ours, theirs = (
            [value for _, value in chain(m.named_parameters(), m.named_buffers())]
            for m in (self.module, followed)
        )
        pairs = list(zip(ours, theirs, strict=True))
        move_averages(pairs, ema_share(self._decay, step))

    def train(self, mode: bool = True) -> "MovingCopy[Module]":
        """Stay in eval mode."""
        return self
