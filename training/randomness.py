"""Seeds and random draws that depend on (run seed, purpose, step) and on nothing else.

Shapes: G is the global batch (all ranks, all micro-batches), B the rows at hand.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, step: int = 0) -> int:
    """Return a seed in [0, 2**63) for one purpose at one step, by hashing.

    Nearby seeds, purposes and steps give unrelated results; nothing has to be remembered, so a
    resumed run draws what an uninterrupted one draws.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class StepDraws:
    """The random numbers of one optimizer step, for rows [start, stop) of its global batch.

    Everything is drawn for the whole global batch and then sliced, so that the number of ranks
    and of micro-batches changes nothing. The same purpose in the same step gives the same
    numbers again: give independent draws different purposes.

    Attributes:
        seed: the run's seed.
        step: optimizer steps taken before this one.
        device: where the numbers are drawn and stay.
        global_size: rows of the global batch, G.
        start, stop: the rows at hand, B = stop - start of them.
    """

    seed: int
    step: int
    device: torch.device
    global_size: int
    start: int
    stop: int

    def generator(self, purpose: str) -> torch.Generator:
        """Return a fresh generator on `device`: equal on every rank and in every micro-batch.

        Draw for `global_size` samples from it and take `rows` of the result.
        """
        generator = torch.Generator(device=self.device)
        generator.manual_seed(derive_seed(self.seed, purpose, self.step))
        return generator

    def rows(self, values: Tensor) -> Tensor:
        """Return the rows at hand, [B, ...], of `values` [G, ...]."""
        if values.shape[0] != self.global_size:
            raise ValueError(
                f"rows of the global batch: got {values.shape[0]}, want {self.global_size}"
            )
        return values[self.start : self.stop]

    def rand(self, purpose: str, *shape: int) -> Tensor:
        """Return uniform float32 numbers in [0, 1) of shape [B, *shape]."""
        generator = self.generator(purpose)
        size = (self.global_size, *shape)
        return self.rows(torch.rand(size, generator=generator, device=self.device))

    def randn(self, purpose: str, *shape: int) -> Tensor:
        """Return standard normal float32 numbers of shape [B, *shape]."""
        generator = self.generator(purpose)
        size = (self.global_size, *shape)
        return self.rows(torch.randn(size, generator=generator, device=self.device))

    def randint(self, purpose: str, high: int, *shape: int) -> Tensor:
        """Return int64 numbers, uniform over 0 .. high - 1, of shape [B, *shape]."""
        generator = self.generator(purpose)
        size = (self.global_size, *shape)
        return self.rows(torch.randint(high, size, generator=generator, device=self.device))
