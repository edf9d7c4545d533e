"""The long run: steps with a log, previews, checkpoints, and stops that lose nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
from training.compute import any_rank, mean_over_ranks, on_main
from training.console import Console, format_seconds
from training.errors import NO_SPACE, InputError, NonFiniteLossError
from training.loop import Metrics, Trainer
from training.run_directory import RunDirectory
from training.signals import StopRequest

# Ranks on accelerators agree to stop only so often: each time they wait for their devices.
_STEPS_BETWEEN_AGREEMENTS = 10


class LogConfig(BaseModel):
    """How often numbers are written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=50, ge=1, description="Steps between lines of log.jsonl.")


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

    status: Literal["finished", "already_finished", "interrupted"]
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
    preview_images: Tensor | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
) -> RunResult:
    """Train to the end, or to a signal, from the run's last checkpoint or from the start.

    Resumed equals uninterrupted: on a CPU bit for bit. All ranks call it.

    Args:
        trainer: freshly made.
        directory: opened for this run's config; closed at the end.
        checkpoint, log, preview: how often each is written; each also at the last step.
        provenance: see `RunDirectory.start`; the seed and the data's fingerprint belong here.
        preview_images: uint8 [N, C, H, W] shown by the trainable's previews; None: no previews.
        on_checkpoint: called with the number of steps taken just before a checkpoint counts, on
            the first rank: whenever a checkpoint exists, its export exists.
    Raises:
        InputError: the folder or its checkpoint does not fit, or there is no space left.
        NonFiniteLossError: training diverged; names step, phase and the last checkpoint.
    """
    run = _Run(trainer, directory, checkpoint, log, preview, preview_images, on_checkpoint)
    try:
        return run.train(provenance)
    except NonFiniteLossError as error:
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
    def __init__(
        self,
        trainer: Trainer,
        directory: RunDirectory,
        checkpoint: CheckpointConfig,
        log: LogConfig,
        preview: PreviewConfig,
        preview_images: Tensor | None,
        on_checkpoint: Callable[[int], None] | None,
    ) -> None:
        total = trainer.total_steps
        self.trainer = trainer
        self.directory = directory
        self.accelerator = trainer.accelerator
        self.log_every = log.every
        self.checkpoint_every = checkpoint.every or max(1, total // 10)
        self.keep = checkpoint.keep
        self.preview_every = preview.every or max(1, total // 4)
        self.preview_images = preview_images
        self.on_checkpoint = on_checkpoint

    def train(self, provenance: Mapping[str, Any]) -> RunResult:
        trainer, total = self.trainer, self.trainer.total_steps
        first, seconds = self.directory.progress()
        self.console = Console(
            first_step=first,
            total_steps=total,
            images_per_step=trainer.batches.batch_size,
            quiet=not self.accelerator.is_main_process,
        )
        if first >= total:
            self.console.say(f"{self.directory.path}: all {total:,} steps are done already")
            return RunResult("already_finished", first, seconds, 0.0)

        if resumed := self.directory.start(provenance):
            trainer.load_state(resumed.state)
        self.clock = RunClock(seconds)
        self.console.begin(self._plan(first))
        try:
            done = self._steps(first)
        finally:
            self.console.end()
        status: Literal["finished", "interrupted"] = "finished" if done == total else "interrupted"
        rate = self.clock.rate()
        seconds = self.clock.seconds()
        self.console.say(
            f"{status} at step {done:,} of {total:,} after {format_seconds(seconds)}, "
            f"{rate:,.0f} images/s"
        )
        return RunResult(status, done, seconds, rate)

    def _steps(self, first: int) -> int:
        """Take the steps from `first` on; return how many the run has taken when it stops."""
        trainer, total = self.trainer, self.trainer.total_steps
        with StopRequest() as stop:
            for step in range(first, total):
                done = step + 1
                logged = done in (1, total) or done % self.log_every == 0
                metrics = trainer.train_step(step, measure=logged)
                self.clock.count(trainer.batches.batch_size)
                loss = self._log(done, metrics) if logged else None
                self.console.advance(done, images_per_second=self.clock.rate(), loss=loss)
                stopping = done < total and self._agree_to_stop(stop, done)
                with self.clock.paused():
                    if done == total or done % self.preview_every == 0:
                        self._preview(done)
                    if done == total or done % self.checkpoint_every == 0 or stopping:
                        self._checkpoint(done)
                if stopping:
                    return done
        return total

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
            f"{place}, {trainer.execution}"
        )

    def _log(self, done: int, metrics: Metrics) -> float:
        """Write one line; return the loss (of the last phase)."""
        values = {name: value for name, value in metrics.items() if not isinstance(value, Tensor)}
        measured = {name: value for name, value in metrics.items() if isinstance(value, Tensor)}
        stacked = torch.stack([value.float() for value in measured.values()])
        means = mean_over_ranks(self.accelerator, stacked).tolist()
        values.update(zip(measured, means, strict=True))
        line = {
            "step": done,
            "images": done * self.trainer.batches.batch_size,
            "images_per_second": self.clock.lap(),
            "seconds": self.clock.seconds(),
            **values,
        }
        if self.accelerator.is_main_process:
            with self.clock.paused():
                self.directory.log(line)
        return next(value for name, value in reversed(values.items()) if name.endswith("loss"))

    def _agree_to_stop(self, stop: StopRequest, done: int) -> bool:
        if self.trainer.device.type != "cpu" and done % _STEPS_BETWEEN_AGREEMENTS:
            return False
        return any_rank(self.accelerator, stop.requested)

    def _preview(self, done: int) -> None:
        if self.preview_images is None or not self.accelerator.is_main_process:
            return
        trainable = self.trainer.trainable
        trainable.eval()
        # Another batch size than training's would compile everything once more.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            pictures = trainable.preview(self.preview_images.to(self.trainer.device))
        trainable.train()
        self.directory.save_previews(pictures, done)

    def _checkpoint(self, done: int) -> None:
        def write() -> None:
            if self.on_checkpoint is not None:
                self.on_checkpoint(done)
            checkpoint = Checkpoint(done, self.clock.seconds(), self.trainer.state())
            save_checkpoint(self.directory.checkpoints, checkpoint, keep=self.keep)

        on_main(self.accelerator, write)
