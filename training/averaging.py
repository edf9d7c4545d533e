"""Averages of the weights over the steps, by kind, for export and previews."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.errors import InputError
from training.sharding import is_spread, spread_like


class _AverageBase(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoAverage(_AverageBase):
    """The last weights."""

    kind: Literal["none"] = "none"


class EmaAverage(_AverageBase):
    """An exponential moving average (Polyak & Juditsky, 1992; Tarvainen & Valpola, 2017)."""

    kind: Literal["ema"] = "ema"
    decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Share of the average kept in a step; early on (1 + step) / (10 + step), which "
        "is less.",
    )


class SwaAverage(_AverageBase):
    """The mean of the weights at steps late in the run (Izmailov et al., 2018)."""

    kind: Literal["swa"] = "swa"
    start: float = Field(
        default=0.75, ge=0, lt=1, description="Share of all steps before the first that counts."
    )
    every: int = Field(default=1, ge=1, description="Steps from one that counts to the next.")


AverageConfig = Annotated[NoAverage | EmaAverage | SwaAverage, Field(discriminator="kind")]


def ema_share(decay: float, step: int) -> float:
    """Return how much of an exponential average the values after a step make up, in (0, 1].

    Args:
        decay: share that is kept, late in the run.
        step: counted from 0. Early on (1 + step) / (10 + step) is kept, which is less.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def move_averages(pairs: Sequence[tuple[Tensor, Tensor]], share: float) -> None:
    """Move averages towards values, (average, value) each, by a share in [0, 1]; copy integers."""
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    # Shared-out parameters and whole buffers cannot stand in one call.
    for spread in (False, True):
        same = [pair for pair in floating if is_spread(pair[0]) is spread]
        if same:
            torch._foreach_lerp_([a for a, _ in same], [value for _, value in same], share)
    for average, value in pairs:
        if not average.is_floating_point():
            average.copy_(value)


class ParameterAverage:
    """Averages a module's parameters and floating buffers; copies its integer buffers.

    What it does at a step depends on the step alone, so that the averages are all its state.
    """

    def __init__(self, config: AverageConfig, module: nn.Module, total_steps: int) -> None:
        """Watch `module`, whose parameters and buffers must stay the same objects.

        Args:
            config: which average.
            module: whose parameters and persistent buffers are averaged.
            total_steps: steps of the whole run.
        """
        self.config = config
        self.total_steps = total_steps
        persistent = module.state_dict().keys()
        named = chain(module.named_parameters(), module.named_buffers())
        # Tied parameters appear once here, unlike in the state dict: swapping twice undoes it.
        self._values = {name: value for name, value in named if name in persistent}
        self._averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's values into the average. `step` has just been taken, counted from 0."""
        share = self._share(step)
        if share is None:
            return
        if not self._averages:
            self._averages = {name: value.clone() for name, value in self._values.items()}
            return
        move_averages([(self._averages[name], v) for name, v in self._values.items()], share)

    def _share(self, step: int) -> float | None:
        """Return how much of the average a step's values make up; None: they do not count."""
        match self.config:
            case NoAverage():
                return None
            case EmaAverage(decay=decay):
                return ema_share(decay, step)
            case SwaAverage(start=start, every=every):
                first = min(math.ceil(start * self.total_steps), self.total_steps - 1)
                number, remainder = divmod(step - first, every)
                return None if step < first or remainder else 1 / (number + 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by name, not copied; none before the first step that counts."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the averages that `tensors` returned.

        Raises:
            InputError: they are not those of this module; one line.
        """
        shapes = {name: value.shape for name, value in tensors.items()}
        if shapes and shapes != {name: value.shape for name, value in self._values.items()}:
            raise InputError(
                "the checkpoint's averaged weights are of another model; resume with the version "
                "that wrote it, or start anew with --overwrite"
            )
        self._averages = {
            name: torch.empty_like(value).copy_(spread_like(tensors[name], value))
            for name, value in self._values.items()
            if name in tensors
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages in the place of the module's values; after it, the values again.

        The module stays as it is before the first step that counts.
        """
        kept = {name: self._values[name].detach().clone() for name in self._averages}
        try:
            self._set_values(self._averages)
            yield
        finally:
            self._set_values(kept)

    @torch.no_grad()
    def _set_values(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self._values[name].copy_(tensor)
