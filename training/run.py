"""The long run: steps with a log, previews, checkpoints, and stops that lose nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training.checkpoints import (
    Checkpoint,
    CheckpointConfig,
    latest_checkpoint,
    save_checkpoint,
)
from training.clock import RunClock
from training.compute import any_rank, arithmetic, mean_over_ranks, on_main
from training.console import Console, format_seconds
from training.early_stopping import EarlyStoppingConfig
from training.errors import NO_SPACE, InputError, NonFiniteLossError
from training.health import HealthConfig, HealthProbe
from training.loop import Metrics, Trainer
from training.metric_watch import MetricWatch
from training.monitoring import Monitor, measure, monitor_interval
from training.profiling import ProfileConfig, Section, StepProfiler, check_profile
from training.rank_watch import RankWatch
from training.run_directory import LogConfig, RunDirectory
from training.signals import StopRequest
from training.trainable import Trainable

# Ranks on accelerators agree to stop only so often: each time they wait for their devices.
_STEPS_BETWEEN_AGREEMENTS = 10


class PreviewConfig(BaseModel):
    """How often pictures are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int | None = Field(
        default=None, ge=1, description="Steps between previews; null: a quarter of the run."
    )


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: "interrupted" by a signal after a checkpoint; "already_finished" before it began.
        step: steps taken in all.
        seconds: wall-clock time of training in all, over every process that took part.
        images_per_second: of this process, checkpoints and previews not counted; 0 where it
            took no step.
    """

    status: Literal["finished", "stopped_early", "already_finished", "interrupted"]
    step: int
    seconds: float
    images_per_second: float


def run_training(
    trainer: Trainer,
    directory: RunDirectory,
    *,
    checkpoint: CheckpointConfig,
    log: LogConfig,
    preview: PreviewConfig,
    provenance: Mapping[str, Any],
    health: HealthConfig = HealthConfig(),
    profile: ProfileConfig = ProfileConfig(),
    early_stopping: EarlyStoppingConfig | None = None,
    preview_images: Tensor | None = None,
    on_checkpoint: Callable[[int, Trainable], None] | None = None,
    monitors: Sequence[Monitor] = (),
    monitor_every: int | None = None,
) -> RunResult:
    """Train to the end, or to a signal, from the run's last checkpoint or from the start.

    Resumed equals uninterrupted: on a CPU bit for bit. All ranks call it.

    Args:
        trainer: freshly made.
        directory: opened for this run's config; closed at the end.
        checkpoint, log, preview: how often each is written; each also at the last step.
        provenance: see `RunDirectory.start`; the seed and the data's fingerprint belong here.
        health: how often the stages are measured.
        profile: which steps are profiled.
        early_stopping: ends the run where a logged metric no longer improves.
        preview_images: uint8 [N, C, H, W] shown by the trainable's previews; None: no previews.
        on_checkpoint: called just before a checkpoint counts, on the first rank, with the number
            of steps taken and the Trainable as it is to be exported: whenever a checkpoint
            exists, its export exists.
        monitors: measure the weights as they are to be exported; what they give is logged, and
            early stopping and the schedule may name it. They change nothing in training.
        monitor_every: steps between their measurements, rounded up to whole lines of the log;
            None: a tenth of the run. They measure after the first and the last step too.
    Raises:
        InputError: the folder or its checkpoint does not fit, or there is no space left; or a
            setting does not fit the run.
        NonFiniteLossError: training diverged; names step, phase and the last checkpoint.
    """
    check_profile(profile, trainer.total_steps)
    watch = MetricWatch(trainer.schedule, early_stopping)
    if watch.is_needed:
        watch.check([*trainer.metric_names(), *(name for m in monitors for name in m.names)])
    run = _Run(trainer, directory, checkpoint, log, preview, health, profile, watch)
    run.preview_images = preview_images
    run.on_checkpoint = on_checkpoint
    run.monitors = monitors
    run.monitor_every = monitor_interval(monitor_every, trainer.total_steps, log.every)
    try:
        result = run.train(provenance)
        directory.finish_trackers()
        return result
    except NonFiniteLossError as error:
        directory.note_divergence(str(error))
        raise NonFiniteLossError(f"{error}; {_last_checkpoint(directory)}") from None
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise InputError(
            f"{error.filename or directory.path}: {os.strerror(error.errno).lower()}; "
            f"{_last_checkpoint(directory)}; make room, then go on with --resume"
        ) from None
    finally:
        directory.close()


def _last_checkpoint(directory: RunDirectory) -> str:
    latest = latest_checkpoint(directory.checkpoints)
    return f"the last checkpoint is {latest}" if latest else "there is no checkpoint yet"


class _Run:
    preview_images: Tensor | None = None
    on_checkpoint: Callable[[int, Trainable], None] | None = None
    monitors: Sequence[Monitor] = ()
    monitor_every: int

    def __init__(
        self,
        trainer: Trainer,
        directory: RunDirectory,
        checkpoint: CheckpointConfig,
        log: LogConfig,
        preview: PreviewConfig,
        health: HealthConfig,
        profile: ProfileConfig,
        watch: MetricWatch,
    ) -> None:
        total = trainer.total_steps
        self.trainer = trainer
        self.directory = directory
        self.accelerator = trainer.accelerator
        self.log_every = log.every
        self.checkpoint_every = checkpoint.every or max(1, total // 10)
        self.keep = checkpoint.keep
        self.preview_every = preview.every or max(1, total // 4)
        self.health_every = health.interval(total, log.every)
        self.probe = HealthProbe(trainer.trainable)
        self.profile_end = profile.window().stop
        self.profiler = StepProfiler(profile, directory.path, trainer.device)
        self.watch = watch
        self.ranks = RankWatch(self.accelerator, trainer.compute.rank_timeout)
        self.best: dict[str, Tensor] = {}

    def train(self, provenance: Mapping[str, Any]) -> RunResult:
        trainer, total = self.trainer, self.trainer.total_steps
        progress = self.directory.progress()
        first = progress.step
        self.console = Console(
            first_step=first,
            total_steps=total,
            images_per_step=trainer.batches.batch_size,
            quiet=not self.accelerator.is_main_process,
        )
        if progress.stopped_early or first >= total:
            early = f"; it stopped early, of {total:,}" if progress.stopped_early else ""
            self.console.say(f"{self.directory.path}: all {first:,} steps are done already{early}")
            return RunResult("already_finished", first, progress.seconds, 0.0)

        if resumed := self.directory.start(provenance):
            trainer.load_state(resumed.state)
            self.watch.load_state(resumed.watch)
            self.best = {n: value.to(trainer.device) for n, value in resumed.best.items()}
        self.clock = RunClock(progress.seconds)
        self.console.begin(self._plan(first))
        trainer.section = self._section
        try:
            done, status = self._steps(first)
        finally:
            self.console.end()
            self.profiler.close()
        rate = self.clock.rate()
        seconds = self.clock.seconds()
        self.console.say(
            f"{status.replace('_', ' ')} at step {done:,} of {total:,} after "
            f"{format_seconds(seconds)}, {rate:,.0f} images/s"
        )
        return RunResult(status, done, seconds, rate)

    def _steps(self, first: int) -> tuple[int, Literal["finished", "stopped_early", "interrupted"]]:
        """Take the steps from `first` on; return how many the run has taken, and why it ends."""
        trainer, total = self.trainer, self.trainer.total_steps
        with StopRequest() as stop, self.ranks:
            for step in range(first, total):
                done = self.ranks.step = step + 1
                logged = done in (1, total) or done % self.log_every == 0
                trainer.lr_factor = self.watch.lr_factor
                with self.profiler.step(step):
                    metrics = trainer.train_step(
                        step, measure=logged, probe=self.probe if self._is_measured(done) else None
                    )
                self.clock.count(trainer.batches.batch_size)
                loss = self._log(done, metrics) if logged else None
                self.console.advance(done, images_per_second=self.clock.rate(), loss=loss)
                stops_early = self.watch.should_stop and done < total
                ends = done == total or stops_early
                interrupted = not ends and self._agree_to_stop(stop, done)
                with self.clock.paused():
                    shown = self._restore_best(done) if ends else done
                    if ends or done % self.preview_every == 0:
                        self._preview(shown)
                    if ends and self.accelerator.is_main_process:
                        for name in trainer.trainable.animated:
                            self.directory.save_animation(name)
                    if ends or interrupted or done % self.checkpoint_every == 0:
                        self._checkpoint(done, stopped_early=stops_early)
                if ends or interrupted:
                    break
        if interrupted:
            return done, "interrupted"
        return done, "stopped_early" if stops_early else "finished"

    def _plan(self, first: int) -> str:
        trainer = self.trainer
        count = sum(p.numel() for p in trainer.trainable.parameters())
        ranks = self.accelerator.num_processes
        place = trainer.device.type
        place += f" ({torch.get_num_threads()} thread(s))" if place == "cpu" else ""
        place += f" on {ranks} ranks" if ranks > 1 else ""
        begin = f"from step {first:,} " if first else ""
        return (
            f"{self.directory.path}: training {begin}to step {trainer.total_steps:,}, "
            f"{trainer.batches.batch_size:,} images each; {count:,} parameters; "
            f"{place}, {arithmetic(trainer.compute, trainer.device)}, {trainer.execution}"
        )

    def _section(self, name: Section) -> AbstractContextManager[object]:
        self.ranks.mark(name)
        return self.profiler.section(name)

    def _is_measured(self, done: int) -> bool:
        return self.health_every is not None and done % self.health_every == 0

    def _log(self, done: int, metrics: Metrics) -> float:
        """Write one line, and act on it; return the loss (of the last phase)."""
        values = {name: value for name, value in metrics.items() if not isinstance(value, Tensor)}
        measured = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
        stacked = torch.stack([value.float() for value in measured.values()])
        means = mean_over_ranks(self.accelerator, stacked).tolist()
        values.update(zip(measured, means, strict=True))
        loss = next(value for name, value in reversed(values.items()) if name.endswith("loss"))
        with self.clock.paused():
            values.update(self._profiled(done))
            values.update(self._monitored(done))
        line = {
            "step": done,
            "images": done * self.trainer.batches.batch_size,
            "images_per_second": self.clock.lap(),
            "seconds": self.clock.seconds(),
            **values,
        }
        with self.clock.paused():
            if self.accelerator.is_main_process:
                self.directory.log(line)
            factor = self.trainer.rate_factor(done - 1)
            for warning in self.probe.warnings(values, lr_factor=factor):
                self.console.say(f"health at step {done:,}: {warning}")
            self._judge(done, values)
        return loss

    def _monitored(self, done: int) -> dict[str, float]:
        """Return what the monitors measure after these steps, which is nothing at most of them."""
        is_due = done in (1, self.trainer.total_steps) or done % self.monitor_every == 0
        if not (self.monitors and is_due):
            return {}
        self.ranks.mark("monitor")
        return measure(self.monitors, self.trainer, done)

    def _profiled(self, done: int) -> dict[str, float]:
        """Return the profile's figures once, with the first line of the log after its window."""
        if not 0 < self.profile_end <= done:
            return {}
        self.profile_end = 0
        if not (values := self.profiler.summary(0.0)):
            return {}
        values = self.profiler.summary(self.trainer.count_flops(done - 1))
        shares = ", ".join(
            f"{name.removeprefix('profile/')} {share:.0%}"
            for name, share in values.items()
            if name not in ("profile/flops_per_second", "profile/bf16_peak_share")
        )
        rate = values["profile/flops_per_second"]
        self.console.say(
            f"profile: {shares} of a step; {rate / 1e9:,.1f} GFLOP/s; trace in "
            f"{self.profiler.trace_file}"
        )
        return values

    def _judge(self, done: int, values: Mapping[str, float]) -> None:
        """Let plateau and early stopping see what was logged; keep the best weights."""
        lr_factor = self.watch.lr_factor
        is_best = self.watch.is_needed and self.watch.update(done, values)
        if self.watch.lr_factor < lr_factor:
            self.console.say(
                f"step {done:,}: no improvement; the learning rate is cut to "
                f"{self.watch.lr_factor:.3g} of the schedule's"
            )
        if is_best and self.watch.early_stopping and self.watch.early_stopping.restore_best:
            with self.trainer.exportable() as best:
                self.best = {name: v.detach().clone() for name, v in best.state_dict().items()}

    def _restore_best(self, done: int) -> int:
        """Return to the best weights, where they are kept; return the step that the weights are of.

        Monitors measure them again, so that what these say last is of the weights that are kept.
        """
        best = self.watch.best_step
        if not self.best or best is None:
            return done
        self.trainer.restore(self.best)
        self.console.say(f"weights of step {best:,}, the best ones")
        if self.monitors and best != done:
            self.ranks.mark("monitor")
            measure(self.monitors, self.trainer, best)
        return best

    def _agree_to_stop(self, stop: StopRequest, done: int) -> bool:
        if self.trainer.device.type != "cpu" and done % _STEPS_BETWEEN_AGREEMENTS:
            return False
        return any_rank(self.accelerator, stop.requested)

    def _preview(self, done: int) -> None:
        if self.preview_images is None:
            return
        self.ranks.mark("preview")
        with self.trainer.exportable() as trainable:
            if not self.accelerator.is_main_process:
                return
            device = next(trainable.parameters()).device
            trainable.eval()
            # Another batch size than training's would compile everything once more.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                pictures = trainable.preview(self.preview_images.to(device))
            trainable.train()
        self.directory.save_previews(pictures, done)

    def _checkpoint(self, done: int, *, stopped_early: bool) -> None:
        self.ranks.mark("checkpoint")
        export = self.on_checkpoint
        if export is not None:
            with self.trainer.exportable() as trainable:
                on_main(self.accelerator, lambda: export(done, trainable))
        checkpoint = Checkpoint(
            done,
            self.clock.seconds(),
            self.trainer.state(),
            self.watch.state(),
            self.best,
            stopped_early,
        )

        def write() -> None:
            save_checkpoint(self.directory.checkpoints, checkpoint, keep=self.keep)

        on_main(self.accelerator, write)
