"""The one training loop's step: phases, ranks, micro-batches, precision, clipping, averages.

Shapes: G rows in the global batch, cut into ranks x micro-batches equal parts.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from training.averaging import AverageConfig, NoAverage, ParameterAverage
from training.clipping import ClipConfig, NoClip
from training.compute import ComputeConfig, compile_networks
from training.divergence import likely_cause
from training.errors import NonFiniteLossError
from training.health import ACTIVATION_ROWS, HealthProbe
from training.optimizers import set_learning_rate
from training.phase_update import PhaseUpdate
from training.profiling import Section, count_flops
from training.randomness import StepDraws, derive_seed
from training.refusals import refuse_contradictions
from training.replay import undisturbed
from training.schedules import ScheduleConfig, multiplier
from training.sharding import shard, whole, whole_tensors
from training.state import TrainerState, load_model
from training.trainable import Batch, Phase, Trainable
from training.weight_penalties import RegularizationConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Metrics = dict[str, float | Tensor]

# Enough to tell a sudden rise of the loss from a slow one.
_REMEMBERED_LOSSES = 50


class BatchSource(Protocol):
    """Batches as a pure function of the step."""

    batch_size: int

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows [start, stop) of the step's global batch of `batch_size` rows."""


class Trainer:
    """Takes optimizer steps on a Trainable; keeps no clock of its own.

    Cheap to make (milliseconds) and without files, so that short fits use it too; a long run
    gets its run directory from `training.run.run_training`.

    Under several ranks batch normalization uses the statistics of each rank's own rows, and its
    running averages are the first rank's.

    Attributes:
        lr_factor: on every learning rate, on top of the schedule's: what a plateau took away.
        section: encloses each part of a step, as `StepProfiler.section` does.
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
        clip: ClipConfig = NoClip(),
        regularization: RegularizationConfig = RegularizationConfig(),
        average: AverageConfig = NoAverage(),
    ) -> None:
        """Move `trainable` to the accelerator's device and prepare its phases.

        Raises:
            InputError: settings that contradict each other, the batch or the length of the run.
        """
        ranks = accelerator.num_processes
        self.trainable = trainable
        self.batches = batches
        self.total_steps = total_steps
        self.schedule = schedule
        self.compute = compute
        self.seed = seed
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.lr_factor = 1.0
        self.section: Callable[[Section], AbstractContextManager[object]] = _unobserved

        self._is_sharded = compute.distribution == "fsdp2" and ranks > 1
        trainable.total_steps = total_steps
        # Files and previews need whole weights: they are gathered into this copy.
        self._replica = copy.deepcopy(trainable) if self._is_sharded else None
        trainable.to(self.device)
        # Shares of weights must be contiguous; activations are channels last all the same.
        if compute.channels_last and not self._is_sharded:
            trainable.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compute.checkpoint_stages:
            trainable.checkpoint_stages()
        trainable.train()
        if self._is_sharded:
            shard(trainable, trainable.stages().values(), self.device)

        phases = trainable.bind_phases()
        if self._replica is not None:
            self._replica.bind_phases()
        refuse_contradictions(
            [phase.optimizer for phase in phases],
            schedule,
            compute,
            clip,
            regularization,
            batch_size=batches.batch_size,
            lengths=[len(phase.steps(total_steps)) for phase in phases],
            ranks=ranks,
        )
        self._updates = [
            PhaseUpdate(
                phase,
                trainable,
                prefix=f"{phase.name}/" if len(phases) > 1 else "",
                steps=phase.steps(total_steps),
                scaler=self._make_scaler(),
                clip=clip,
                regularization=regularization,
            )
            for phase in phases
        ]
        self._average = ParameterAverage(average, trainable, total_steps)
        self._recent_losses: dict[str, deque[float]] = {
            phase.name: deque(maxlen=_REMEMBERED_LOSSES) for phase in phases
        }
        self.execution = compile_networks(trainable.networks(), compute, device=self.device)
        self._module: nn.Module = trainable
        if ranks > 1 and not self._is_sharded:
            self._module = self._distribute(len(phases))

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

    def train_step(
        self, step: int, *, measure: bool = True, probe: HealthProbe | None = None
    ) -> Metrics:
        """Take one optimizer step in every phase.

        Metrics are scalars of this rank's rows and stay on the device: reading one waits for it.
        With one phase they are `loss`, `lr`, `grad_norm` and what its loss returns; with
        several each is preceded by "phase/".

        Args:
            step: optimizer steps already taken, 0 <= step < total_steps.
            measure: return `grad_norm` also without clipping, and look at the loss on an
                accelerator too (on a CPU it is always looked at).
            probe: measures the stages' health in this step, added under its own names.
        Raises:
            NonFiniteLossError: a loss is infinite or not a number; nothing was updated by it.
        """
        updates = self._updates_at(step)
        check = measure or self.device.type == "cpu"
        self._seed_global_draws(step)
        with self.section("data"):
            parts = list(self._parts(step))
        if probe is not None:
            probe.remember_weights()
        for update in self._updates:
            update.optimizer.zero_grad(set_to_none=True)
        metrics: Metrics = {}
        for update in updates:
            self._train_only(update)
            factor = self._rate_factor(update, step)
            set_learning_rate(update.optimizer, factor)
            if update.needs_closure:
                values = self._minimize(update, parts[0], check=check)
            else:
                values = self._backward(update, parts, check=check)
                with self.section("optimizer"):
                    update.unscale()
                    if probe is not None:
                        # Earlier phases' gradients are clipped by now: theirs stay as measured.
                        metrics = {**probe.gradient_norms(), **metrics}
                    norm = update.step(measure=measure)
                if norm is not None:
                    values["grad_norm"] = norm
            values["lr"] = update.phase.optimizer.lr * factor
            metrics.update({update.prefix + name: value for name, value in values.items()})
        with torch.no_grad():
            self.trainable.after_step(step)
            self._average.update(step)
        if probe is not None:
            metrics.update(probe.update_ratios())
            metrics.update(probe.activations(lambda: self._losses(updates, step, ACTIVATION_ROWS)))
        return {n: whole(v) if isinstance(v, Tensor) else v for n, v in metrics.items()}

    def rate_factor(self, step: int) -> float:
        """Return the largest factor on a learning rate among the phases of a step."""
        return max(self._rate_factor(update, step) for update in self._updates_at(step))

    def metric_names(self) -> list[str]:
        """Return the names of the metrics that every step gives, after trying the first batch."""
        with undisturbed(self.trainable):
            values = self._losses(self._updates, 0, self.batches.batch_size)
        return [
            update.prefix + name
            for update in self._updates
            for name in ("loss", "lr", "grad_norm", *values[update.phase.name])
        ]

    def evaluate(
        self, trainable: Trainable, step: int, batch: Batch, draws: StepDraws
    ) -> dict[str, Tensor]:
        """Return the losses and metrics, as they are logged, of a step's phases on other rows.

        Args:
            trainable: what `exportable` gave, in train or in eval mode.
            step: decides which phases are looked at.
            batch, draws: on the device of `trainable`.
        """
        values: dict[str, Tensor] = {}
        with self.accelerator.autocast():
            for update in self._updates_at(step):
                loss, metrics = trainable(update.phase.name, batch, draws)
                for name, value in {"loss": loss.detach(), **metrics}.items():
                    values[update.prefix + name] = value
        return values

    def count_flops(self, step: int) -> int:
        """Return the floating-point operations of a step's forward and backward on this rank.

        Gradients are lost, all else stays as it is. Parts are counted as `count_flops` says.
        """

        def run() -> None:
            for update in self._updates_at(step):
                self._train_only(update)
                for batch, draws in self._parts(step):
                    loss, _ = self._module(update.phase.name, batch, draws)
                    loss.backward()

        with undisturbed(self.trainable):
            flops = count_flops(run)
        for update in self._updates:
            update.optimizer.zero_grad(set_to_none=True)
        return flops

    def _updates_at(self, step: int) -> list[PhaseUpdate]:
        return [u for u in self._updates if u.phase.is_due(step, self.total_steps)]

    def _rate_factor(self, update: PhaseUpdate, step: int) -> float:
        first, length = update.steps.start, len(update.steps)
        return multiplier(self.schedule, step - first, length) * self.lr_factor

    @property
    def _num_parts(self) -> int:
        return self.accelerator.num_processes * self.compute.accumulation

    def _parts(self, step: int) -> Iterator[tuple[Batch, StepDraws]]:
        """Yield this rank's micro-batches, each with its view of the step's draws."""
        rows = self.batches.batch_size // self._num_parts
        first = self.accelerator.process_index * self.compute.accumulation * rows
        for part in range(self.compute.accumulation):
            start = first + part * rows
            yield self._rows(step, start, start + rows)

    def _rows(self, step: int, start: int, stop: int) -> tuple[Batch, StepDraws]:
        batch = self.batches.batch(step, start, stop)
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        return batch, StepDraws(self.seed, step, self.device, self.batches.batch_size, start, stop)

    def _losses(
        self, updates: Sequence[PhaseUpdate], step: int, rows: int
    ) -> dict[str, dict[str, Tensor]]:
        """Compute phases' losses on the first rows of this rank; return their metrics."""
        first = self.accelerator.process_index * self.batches.batch_size
        first //= self.accelerator.num_processes
        most = self.batches.batch_size // self._num_parts
        batch, draws = self._rows(step, first, first + min(rows, most))
        with self.accelerator.autocast():
            return {
                update.phase.name: self.trainable(update.phase.name, batch, draws)[1]
                for update in updates
            }

    def _backward(
        self, update: PhaseUpdate, parts: list[tuple[Batch, StepDraws]], *, check: bool
    ) -> Metrics:
        """Add up the gradients of all micro-batches; return the means of their metrics."""
        means: dict[str, Tensor] = {}
        for number, (batch, draws) in enumerate(parts):
            with self._gradient_exchange(is_last=number == len(parts) - 1):
                with self.section("forward"):
                    with self.accelerator.autocast():
                        loss, metrics = self._module(update.phase.name, batch, draws)
                    if check:
                        self._check_finite(loss, update.phase, batch, draws)
                with self.section("backward"):
                    share = loss / len(parts)
                    (share if update.scaler is None else update.scaler.scale(share)).backward()
            for name, metric in {"loss": loss.detach(), **metrics}.items():
                part = metric / len(parts)
                means[name] = means[name] + part if name in means else part
        return dict(means)

    def _minimize(
        self, update: PhaseUpdate, part: tuple[Batch, StepDraws], *, check: bool
    ) -> Metrics:
        """Let an optimizer evaluate the loss itself; return the metrics of its first look."""
        batch, draws = part
        first_metrics: dict[str, Tensor] = {}

        def closure() -> Tensor:
            self._seed_global_draws(draws.step)  # dropout must be the same each time
            with self.section("forward"), self.accelerator.autocast():
                loss, metrics = self._module(update.phase.name, batch, draws)
            if not first_metrics:
                if check:
                    self._check_finite(loss, update.phase, batch, draws)
                first_metrics.update({"loss": loss.detach(), **metrics})
            return loss

        update.minimize(closure)
        return dict(first_metrics)

    def _check_finite(self, loss: Tensor, phase: Phase, batch: Batch, draws: StepDraws) -> None:
        """Remember a loss; stop where it is infinite or not a number."""
        value = loss.item()
        if math.isfinite(value):
            self._recent_losses[phase.name].append(value)
            return
        cause = ""
        if not self._is_sharded:  # there a forward needs all ranks

            def again() -> Tensor:
                self._seed_global_draws(draws.step)
                return self.trainable(phase.name, batch, draws)[0]

            update = next(u for u in self._updates if u.phase is phase)
            cause = "; likely cause: " + likely_cause(
                self.trainable,
                batch,
                again,
                lr=phase.optimizer.lr * self._rate_factor(update, draws.step),
                losses=list(self._recent_losses[phase.name]),
                mixed_precision=self.compute.mixed_precision,
                clipped=update.is_clipped,
            )
        raise NonFiniteLossError(
            f"step {draws.step + 1}, phase {phase.name!r}: the loss is {value}{cause}"
        )

    def _gradient_exchange(self, *, is_last: bool) -> AbstractContextManager[None]:
        if is_last or self._module is self.trainable:
            return nullcontext()
        return self.accelerator.no_sync(self._module)

    def _train_only(self, update: PhaseUpdate) -> None:
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
        # torch.manual_seed also prepares for every kind of accelerator that is not there, in
        # three quarters of a millisecond.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    # ------------------------------------------------------------ state

    @contextmanager
    def exportable(self) -> Iterator[Trainable]:
        """Give the Trainable as it is to be exported: whole weights, averaged where asked for.

        Every rank must enter it. Inside it nothing may be trained.
        """
        with self._average.applied():
            if self._replica is None:
                yield self.trainable
            else:
                self._replica.load_state_dict(whole_tensors(self.trainable.state_dict()))
                yield self._replica

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the model to tensors that `exportable` gave, and the average, if any, to the same."""
        load_model(self.trainable, tensors)
        self._average.load({name: tensors[name] for name in self._average.tensors()})

    def state(self) -> TrainerState:
        """Return the tensors of model, optimizers and average, whole. Every rank must call it.

        They are not copied, except where the ranks' shares are gathered.
        """
        optimizer = {
            f"{update.phase.name}/{name}": value
            for update in self._updates
            for name, value in update.tensors().items()
        }
        scalers = {
            update.phase.name: update.scaler.state_dict()
            for update in self._updates
            if update.scaler is not None
        }
        return TrainerState(
            whole_tensors(self.trainable.state_dict()),
            whole_tensors(optimizer),
            whole_tensors(self._average.tensors()),
            scalers,
        )

    def load_state(self, state: TrainerState) -> None:
        """Set model, optimizers, average and scalers to a state of a trainer that was made alike.

        Raises:
            InputError: the state's tensors are not those of this model; one line.
        """
        load_model(self.trainable, state.model)
        for update in self._updates:
            prefix = f"{update.phase.name}/"
            update.load_tensors(
                {
                    name.removeprefix(prefix): value
                    for name, value in state.optimizer.items()
                    if name.startswith(prefix)
                }
            )
            if update.scaler is not None:
                update.scaler.load_state_dict(state.scalers[update.phase.name])
        self._average.load(state.average)


def _unobserved(section: Section) -> AbstractContextManager[object]:
    return nullcontext()
