"""Monitors: what is measured on the weights now and then, beside training and without a trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from training.compute import from_main, on_main
from training.loop import Trainer
from training.replay import undisturbed
from training.trainable import Trainable

_MEASUREMENTS = 10


class Monitor(Protocol):
    """Gives further metrics for a line of the log."""

    @property
    def names(self) -> Sequence[str]:
        """The metrics that it may give. All ranks ask for them."""

    def __call__(self, step: int, trainable: Trainable) -> Mapping[str, float]:
        """Return the metrics after `step` steps. Only the first rank is asked.

        Args:
            step: 1 or more.
            trainable: as it is to be exported, in eval mode; buffers and torch's random states
                are put back afterwards.
        """


def monitor_interval(every: int | None, total_steps: int, log_every: int) -> int:
    """Return the steps between measurements: `every`, or a tenth of the run, in whole lines."""
    steps = every or math.ceil(total_steps / _MEASUREMENTS)
    return math.ceil(steps / log_every) * log_every


def measure(monitors: Sequence[Monitor], trainer: Trainer, step: int) -> dict[str, float]:
    """Return what all monitors give after `step` steps, equal on all ranks.

    Every rank must call it. Training goes on as if nothing had been measured.
    """
    values: dict[str, float] = {}
    with trainer.exportable() as trainable:

        def look() -> None:
            with undisturbed(trainable):
                trainable.eval()
                for monitor in monitors:
                    values.update(monitor(step, trainable))
                trainable.train()

        on_main(trainer.accelerator, look)
    return from_main(trainer.accelerator, values)
