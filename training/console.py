"""What a long run tells its user: what it will do, how long it takes, how far it is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# The first steps are slow (memory, kernels, compilation): the estimate leaves them out.
_UNMEASURED_STEPS = 3
_MEASURED_STEPS = 20
_PLAIN_LINES = 10
_SHORT_SECONDS = 5


class Console:
    """Progress of one run: a bar where stderr is a terminal, else a line every tenth."""

    def __init__(
        self, *, first_step: int, total_steps: int, images_per_step: int, quiet: bool = False
    ) -> None:
        """Say nothing yet. `quiet` says nothing at all: ranks other than the first."""
        self._first = first_step
        self._total = total_steps
        self._images_per_step = images_per_step
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._began = self._measured_from = time.perf_counter()

    def begin(self, line: str) -> None:
        """Print what will be done, and start the clock."""
        self.say(line)
        self._began = self._measured_from = time.perf_counter()
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total,
                initial=self._first,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.25,
            )

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def advance(self, steps_done: int, *, images_per_second: float, loss: float | None) -> None:
        """Count a step; `loss` is shown where it is known."""
        if self._quiet:
            return
        here = steps_done - self._first
        if here == _UNMEASURED_STEPS:
            self._measured_from = time.perf_counter()
        if here == _UNMEASURED_STEPS + _MEASURED_STEPS:
            self._estimate(steps_done)
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self._bar.update(1)
        elif (
            steps_done * _PLAIN_LINES // self._total
            > (steps_done - 1) * _PLAIN_LINES // self._total
        ):
            elapsed = time.perf_counter() - self._began
            left = elapsed / here * (self._total - steps_done)
            self.say(
                f"step {steps_done:,} of {self._total:,}, {images_per_second:,.0f} images/s, "
                f"{format_seconds(left)} left"
            )

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _tenths(self, steps_done: int) -> int:
        return steps_done * _PLAIN_LINES // self._total

    def _estimate(self, steps_done: int) -> None:
        per_step = (time.perf_counter() - self._measured_from) / _MEASURED_STEPS
        left = per_step * (self._total - steps_done)
        if left < _SHORT_SECONDS:
            return
        self.say(
            f"{self._images_per_step / per_step:,.0f} images/s: about {format_seconds(left)} "
            f"for the remaining {self._total - steps_done:,} steps"
        )


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: "8 s", "2 min 5 s", "3 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
