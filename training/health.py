"""Signals of a run's health, per stage of the Trainable: gradients, updates, activations.

Shapes: B rows, T positions, C channels, H height, W width, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from training.replay import undisturbed
from training.trainable import Trainable

MEASUREMENTS = 100
# A measurement costs less than one step, so this bounds its cost by 2% of the run.
LEAST_INTERVAL = 50
# Fewer rows make units look dead that are only rarely active; more cost more.
ACTIVATION_ROWS = 128

# Where a signal is worth a warning. An update of about a thousandth of the weights is usual.
LARGEST_UPDATE_RATIO = 0.1
LEAST_UPDATE_RATIO = 1e-6
LARGEST_DEAD_SHARE = 0.5
LARGEST_SATURATED_SHARE = 0.5
LARGEST_GRADIENT_SPREAD = 1e4

_RELUS = (nn.ReLU, nn.ReLU6)
_SQUASHING = (nn.Sigmoid, nn.Tanh)
# An output this near to an end of its range, as a share of the range, counts as saturated.
_SATURATION_MARGIN = 0.05


class HealthConfig(BaseModel):
    """How often gradients, updates and activations are measured for the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int | None = Field(
        default=None,
        ge=0,
        description="Steps between measurements, rounded up to whole lines of the log; null: "
        f"{MEASUREMENTS} in a run, at least {LEAST_INTERVAL} steps apart, so that they take "
        "under 2% of it; 0: never.",
    )

    def interval(self, total_steps: int, log_every: int) -> int | None:
        """Return the steps between measurements, a multiple of `log_every`; None for never."""
        if self.every == 0:
            return None
        steps = self.every or max(LEAST_INTERVAL, math.ceil(total_steps / MEASUREMENTS))
        return math.ceil(steps / log_every) * log_every


class HealthProbe:
    """Measures a Trainable's stages; all values are scalars that stay on the device.

    One measurement is `remember_weights`, the step, then the others. A stage without the thing
    that is measured, such as a gradient in this step or an activation layer, has no entry.
    """

    def __init__(self, trainable: Trainable) -> None:
        """Look at the stages and at which of their parameters are trained, now."""
        self._trainable = trainable
        self._stages = dict(trainable.stages())
        self._parameters = {
            name: [p for p in stage.parameters() if p.requires_grad]
            for name, stage in self._stages.items()
        }
        self._before: dict[str, list[Tensor]] = {}
        self._said: set[tuple[str, str]] = set()

    def gradient_norms(self) -> dict[str, Tensor]:
        """Return "health/grad_norm/STAGE": the norm of the gradients as they are now.

        After the backward pass and unscaling; after clipping they are the clipped ones.
        """
        return {
            f"health/grad_norm/{stage}": get_total_norm(gradients)
            for stage, parameters in self._parameters.items()
            if (gradients := [p.grad for p in parameters if p.grad is not None])
        }

    def remember_weights(self) -> None:
        """Copy the weights for `update_ratios`: before the step."""
        self._before = {
            stage: [p.detach().clone() for p in parameters]
            for stage, parameters in self._parameters.items()
        }

    @torch.no_grad()
    def update_ratios(self) -> dict[str, Tensor]:
        """Return "health/update_ratio/STAGE": ||change|| / ||weights before||, after the step.

        Over the parameters that have a gradient. The copies are dropped.
        """
        ratios = {}
        for stage, parameters in self._parameters.items():
            pairs = zip(parameters, self._before[stage], strict=True)
            trained = [(p.detach(), old) for p, old in pairs if p.grad is not None]
            if trained:
                now, before = zip(*trained, strict=True)
                change = get_total_norm(torch._foreach_sub(now, before))
                ratios[f"health/update_ratio/{stage}"] = change / get_total_norm(before)
        self._before = {}
        return ratios

    def activations(self, run: Callable[[], object]) -> dict[str, Tensor]:
        """Return the shares of dead units and saturated outputs of each stage in a forward.

        "health/dead/STAGE" is the share of ReLU units (channels) that are 0 in every row and at
        every position; "health/saturated/STAGE" that of sigmoid and tanh outputs within 5% of
        their range's ends. Activations that are functions, not modules, are not seen.

        Args:
            run: takes a forward of the Trainable in the mode it is in, on up to
                `ACTIVATION_ROWS` rows. Neither buffers nor random states are moved by it.
                Gradients stay enabled, for losses with a gradient penalty.
        """
        records = {stage: _Activations() for stage in self._stages}
        with undisturbed(self._trainable), ExitStack() as hooks:
            for stage, network in self._stages.items():
                for module in network.modules():
                    if isinstance(module, _RELUS):
                        hook = records[stage].record_units
                    elif isinstance(module, _SQUASHING):
                        hook = records[stage].record_values
                    else:
                        continue
                    hooks.enter_context(module.register_forward_hook(hook))
            run()
        shares = {}
        for stage, record in records.items():
            if record.alive:
                alive = torch.cat(list(record.alive.values()))
                shares[f"health/dead/{stage}"] = 1 - alive.float().mean()
            if record.values:
                saturated = torch.stack(record.saturated).sum()
                shares[f"health/saturated/{stage}"] = saturated / record.values
        return shares

    def warnings(self, values: Mapping[str, float], *, lr_factor: float) -> list[str]:
        """Return a line for each signal that has crossed its threshold for the first time.

        Args:
            values: what was measured, by the names under which it was returned; others are
                left alone.
            lr_factor: the schedule's factor on the learning rate in this step, in (0, 1]: small
                updates are no surprise where it is small.
        """
        lines = []
        for key, line in complaints(values, lr_factor):
            if key not in self._said:
                self._said.add(key)
                lines.append(line)
        return lines


@dataclass
class _Activations:
    """What the activation layers of one stage gave in a forward.

    Attributes:
        alive: ReLU module -> which of its units were not 0 somewhere, over all its calls.
        saturated: numbers of saturated values, one for each call.
        values: number of values among which they were counted.
    """

    alive: dict[nn.Module, Tensor] = field(default_factory=dict)
    saturated: list[Tensor] = field(default_factory=list)
    values: int = 0

    @torch.no_grad()
    def record_units(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Take in the output of a ReLU, [B, C, H, W], [B, T, D] or [B, D]."""
        unit_axis = 1 if output.ndim == 4 else output.ndim - 1
        others = [axis for axis in range(output.ndim) if axis != unit_axis]
        alive = output.amax(others) > 0
        self.alive[module] = alive | self.alive[module] if module in self.alive else alive

    @torch.no_grad()
    def record_values(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Take in the output of a sigmoid or a tanh, of any shape."""
        centre, width = (0.0, 2.0) if isinstance(module, nn.Tanh) else (0.5, 1.0)
        distance = (output - centre).abs()
        self.saturated.append((distance > (0.5 - _SATURATION_MARGIN) * width).sum())
        self.values += output.numel()


def complaints(
    values: Mapping[str, float], lr_factor: float
) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((signal, stage), line) for each value beyond its threshold.

    Args:
        values, lr_factor: as `HealthProbe.warnings` takes them.
    """
    gradients = {}
    for name, value in values.items():
        if not name.startswith("health/") or not math.isfinite(value):
            continue
        _, signal, stage = name.split("/", 2)
        key = (signal, stage)
        match signal:
            case "grad_norm" if value == 0:
                yield key, f"{stage}: no gradient reaches it, its norm is 0"
            case "grad_norm":
                gradients[stage] = value
            case "update_ratio" if value > LARGEST_UPDATE_RATIO:
                yield (
                    ("large_update", stage),
                    f"{stage}: one step changes its weights by {value:.0%} of their norm; "
                    "lower the learning rate",
                )
            # An update of exactly 0 is a step that a gradient scaler skipped.
            case "update_ratio" if 0 < value < LEAST_UPDATE_RATIO * lr_factor:
                yield (
                    ("small_update", stage),
                    f"{stage}: one step changes its weights by {value:.0e} of their norm, so that "
                    "it hardly learns; raise the learning rate",
                )
            case "dead" if value > LARGEST_DEAD_SHARE:
                yield (
                    key,
                    f"{stage}: {value:.0%} of its units are 0 on every image; lower the learning "
                    "rate or take an activation that does not die, such as leaky_relu",
                )
            case "saturated" if value > LARGEST_SATURATED_SHARE:
                yield (
                    key,
                    f"{stage}: {value:.0%} of its sigmoid or tanh outputs lie at the ends of their "
                    "range, where hardly any gradient passes; lower the learning rate or the "
                    "initial weights, or take another activation",
                )
    if gradients:
        least = min(gradients, key=gradients.__getitem__)
        largest = max(gradients, key=gradients.__getitem__)
        spread = gradients[largest] / gradients[least]
        if spread > LARGEST_GRADIENT_SPREAD:
            yield (
                ("gradient_spread", ""),
                f"{least}: its gradient is {spread:.0e} times smaller than that of {largest}; "
                "normalize between the layers or draw the weights by he or glorot",
            )
