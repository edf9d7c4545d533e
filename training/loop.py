"""The one training loop's step: phases, ranks, micro-batches, precision, clipping, state.

Shapes: G rows in the global batch, cut into ranks x micro-batches equal parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from training.compute import ComputeConfig, compile_networks
from training.errors import InputError, NonFiniteLossError
from training.optimizers import build_optimizer, norm_parameters, set_learning_rate
from training.randomness import StepDraws, derive_seed
from training.schedules import ScheduleConfig, multiplier
from training.trainable import Batch, Phase, Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

Metrics = dict[str, float | Tensor]


class BatchSource(Protocol):
    """Batches as a pure function of the step."""

    batch_size: int

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows [start, stop) of the step's global batch of `batch_size` rows."""


@dataclass(frozen=True)
class TrainerState:
    """All that a run needs to go on, besides its step.

    Attributes:
        model: parameters and buffers by their names in the Trainable.
        optimizer: "phase/parameter name/key" -> tensor.
        scalers: phase -> values of its gradient scaler; empty without fp16.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    scalers: dict[str, dict[str, float]]


class _PhaseUpdate:
    """A phase with what updates its parameters."""

    def __init__(
        self,
        phase: Phase,
        prefix: str,
        norms: set[nn.Parameter],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.phase = phase
        self.prefix = prefix
        self.named = [(name, p) for name, p in phase.parameters if p.requires_grad]
        self.parameters = [p for _, p in self.named]
        self.optimizer = build_optimizer(
            phase.optimizer, self.named, lr_factors=phase.lr_factors, norms=norms
        )
        self.scaler = scaler

    def apply(self, clip_norm: float | None, *, measure: bool) -> Tensor | None:
        """Update the parameters from their gradients; return the gradient's norm if known."""
        norm = None
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, clip_norm)
        elif measure:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return norm


class Trainer:
    """Takes optimizer steps on a Trainable; keeps no clock of its own.

    Cheap to make (milliseconds) and without files, so that short fits use it too; a long run
    gets its run directory from `training.run.run_training`.

    Under several ranks batch normalization uses the statistics of each rank's own rows, and its
    running averages are the first rank's.
    """

    def __init__(
        self,
        trainable: Trainable,
        batches: BatchSource,
        *,
        total_steps: int,
        schedule: ScheduleConfig,
        compute: ComputeConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        """Move `trainable` to the accelerator's device and prepare its phases.

        Raises:
            InputError: the batch does not divide evenly among ranks and micro-batches.
        """
        ranks = accelerator.num_processes
        if batches.batch_size % (ranks * compute.accumulation):
            raise InputError(
                f"batch_size: found {batches.batch_size}, which {ranks} rank(s) x "
                f"compute.accumulation {compute.accumulation} do not divide; "
                f"use a multiple of {ranks * compute.accumulation}"
            )
        self.trainable = trainable
        self.batches = batches
        self.total_steps = total_steps
        self.schedule = schedule
        self.compute = compute
        self.seed = seed
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device

        trainable.to(self.device)
        if compute.channels_last:
            trainable.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainable.train()

        phases = trainable.bind_phases()
        norms = norm_parameters(trainable)
        self._updates = [
            _PhaseUpdate(
                phase,
                prefix=f"{phase.name}/" if len(phases) > 1 else "",
                norms=norms,
                scaler=self._make_scaler(),
            )
            for phase in phases
        ]
        self.execution = compile_networks(
            trainable.networks(), compute, device=self.device, total_steps=total_steps
        )
        self._module: nn.Module = trainable if ranks == 1 else self._distribute(len(phases))

    def _make_scaler(self) -> torch.amp.GradScaler | None:
        if self.compute.mixed_precision != "fp16":
            return None
        return torch.amp.GradScaler(self.device.type)

    def _distribute(self, num_phases: int) -> nn.Module:
        # Only several ranks need Accelerate's wrapper, and Accelerate keeps what it prepared for
        # as long as the process lives: single-rank fits by the hundred must not go through it.
        from accelerate import DistributedDataParallelKwargs

        self.accelerator.ddp_handler = DistributedDataParallelKwargs(
            find_unused_parameters=num_phases > 1
        )
        return self.accelerator.prepare(self.trainable)

    # ------------------------------------------------------------ stepping

    def train_step(self, step: int, *, measure: bool = True) -> Metrics:
        """Take one optimizer step in every phase.

        Metrics are scalars of this rank's rows and stay on the device: reading one waits for it.
        With one phase they are `loss`, `lr`, `grad_norm` and what its loss returns; with
        several each is preceded by "phase/".

        Args:
            step: optimizer steps already taken, 0 <= step < total_steps.
            measure: return `grad_norm` also without clipping, and look at the loss on an
                accelerator too (on a CPU it is always looked at).
        Raises:
            NonFiniteLossError: a loss is infinite or not a number; nothing was updated by it.
        """
        factor = multiplier(self.schedule, step, self.total_steps)
        self._seed_global_draws(step)
        parts = list(self._parts(step))
        metrics: Metrics = {}
        for update in self._updates:
            self._train_only(update)
            set_learning_rate(update.optimizer, factor)
            update.optimizer.zero_grad(set_to_none=True)
            values = self._backward(update, parts, check=measure or self.device.type == "cpu")
            norm = update.apply(self.compute.clip_norm, measure=measure)
            values["lr"] = update.phase.optimizer.lr * factor
            if norm is not None:
                values["grad_norm"] = norm
            metrics.update({update.prefix + name: value for name, value in values.items()})
        with torch.no_grad():
            self.trainable.after_step(step)
        return metrics

    def _parts(self, step: int) -> Iterator[tuple[Batch, StepDraws]]:
        """Yield this rank's micro-batches, each with its view of the step's draws."""
        size = self.batches.batch_size
        rows = size // (self.accelerator.num_processes * self.compute.accumulation)
        first = self.accelerator.process_index * self.compute.accumulation * rows
        for part in range(self.compute.accumulation):
            start = first + part * rows
            stop = start + rows
            batch = self.batches.batch(step, start, stop)
            batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
            yield batch, StepDraws(self.seed, step, self.device, size, start, stop)

    def _backward(
        self, update: _PhaseUpdate, parts: list[tuple[Batch, StepDraws]], *, check: bool
    ) -> Metrics:
        """Add up the gradients of all micro-batches; return the means of their metrics."""
        means: dict[str, Tensor] = {}
        for number, (batch, draws) in enumerate(parts):
            with self._gradient_exchange(is_last=number == len(parts) - 1):
                with self.accelerator.autocast():
                    loss, metrics = self._module(update.phase.name, batch, draws)
                if check and not math.isfinite(value := loss.item()):
                    raise NonFiniteLossError(
                        f"step {draws.step + 1}, phase {update.phase.name!r}: the loss is {value}; "
                        "lower the phase's learning rate or set compute.clip_norm"
                    )
                share = loss / len(parts)
                (share if update.scaler is None else update.scaler.scale(share)).backward()
            for name, metric in {"loss": loss.detach(), **metrics}.items():
                part = metric / len(parts)
                means[name] = means[name] + part if name in means else part
        return dict(means)

    def _gradient_exchange(self, *, is_last: bool) -> AbstractContextManager[None]:
        if is_last or self.accelerator.num_processes == 1:
            return nullcontext()
        return self.accelerator.no_sync(self._module)

    def _train_only(self, update: _PhaseUpdate) -> None:
        """With several phases, let this one's loss reach no other phase's parameters."""
        if len(self._updates) == 1:
            return
        for other in self._updates:
            for parameter in other.parameters:
                parameter.requires_grad_(False)
        for parameter in update.parameters:
            parameter.requires_grad_(True)

    def _seed_global_draws(self, step: int) -> None:
        """Seed torch's own generators, from which dropout draws, as a function of the step."""
        seed = derive_seed(self.seed, f"dropout/rank{self.accelerator.process_index}", step)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    # ------------------------------------------------------------ state

    def state(self) -> TrainerState:
        """Return the tensors of the model and the optimizers, not copied."""
        optimizer = {}
        for update in self._updates:
            for name, parameter in update.named:
                for key, value in update.optimizer.state.get(parameter, {}).items():
                    if value is not None:
                        optimizer[f"{update.phase.name}/{name}/{key}"] = value
        scalers = {
            update.phase.name: update.scaler.state_dict()
            for update in self._updates
            if update.scaler is not None
        }
        return TrainerState(self.trainable.state_dict(), optimizer, scalers)

    def load_state(self, state: TrainerState) -> None:
        """Set model, optimizers and scalers to a state of a trainer that was made alike.

        Raises:
            InputError: the state's tensors are not those of this model; one line.
        """
        own = self.trainable.state_dict()
        if own.keys() != state.model.keys():
            names = ", ".join(sorted(own.keys() ^ state.model.keys())[:3])
            raise InputError(
                f"the checkpoint is of another model: only one of the two has {names}; "
                "resume with the version that wrote it, or start anew with --overwrite"
            )
        for name, value in state.model.items():
            if value.shape != own[name].shape:
                raise InputError(
                    f"the checkpoint is of another model: {name} is {tuple(value.shape)} there, "
                    f"{tuple(own[name].shape)} here; start anew with --overwrite"
                )
        self.trainable.load_state_dict(state.model)

        for update in self._updates:
            update.optimizer.state.clear()
            by_name = dict(update.named)
            for full_name, value in state.optimizer.items():
                phase, name, key = full_name.split("/")
                if phase == update.phase.name:
                    parameter = by_name[name]
                    entry = update.optimizer.state[parameter]
                    entry[key] = _like(value, parameter)
            if update.scaler is not None:
                update.scaler.load_state_dict(state.scalers[update.phase.name])


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Copy optimizer state onto the parameter's device and into its memory layout."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
