"""Where a step's time goes, over a window of a run: shares of its sections, a trace, FLOP/s."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from training.errors import InputError

Section = Literal["data", "forward", "backward", "optimizer"]
SECTIONS: tuple[Section, ...] = ("data", "forward", "backward", "optimizer")

# FLOP/s of dense matrix products in bf16, by the name that the driver gives: the data sheets of
# NVIDIA A100 (June 2021), H100 SXM and H200 SXM, which print twice as much for the latter two:
# theirs is with sparsity. Parts of a GPU (MIG) have other names, and no entry.
_BF16_PEAK_FLOPS = {
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

_NOTHING = nullcontext()


class ProfileConfig(BaseModel):
    """Which steps are profiled, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: str | None = Field(
        default=None,
        description="FIRST:LAST, as the log numbers them, at least two: 11:20. The first half is "
        "timed, the second traced. null: none.",
    )

    @field_validator("steps")
    @classmethod
    def _is_a_window(cls, value: str | None) -> str | None:
        if value is not None:
            first, _, last = value.partition(":")
            if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) < int(last)):
                raise ValueError("should be FIRST:LAST, two steps of the log or more, as 11:20")
        return value

    def window(self) -> range:
        """Return the steps to profile as the loop counts them, from 0; empty for none."""
        if self.steps is None:
            return range(0)
        first, last = map(int, self.steps.split(":"))
        return range(first - 1, last)


def check_profile(config: ProfileConfig, total_steps: int) -> None:
    """Check that a run is long enough for the window.

    Raises:
        InputError: the window ends after the run.
    """
    if config.window().stop > total_steps:
        raise InputError(
            f"profile.steps: found {config.steps!r}, but the run has {total_steps:,} steps; "
            f"use a window that ends at {total_steps} or before"
        )


class StepProfiler:
    """Times the sections of the first half of a window's steps and traces the second half.

    The tracing slows the steps that it sees, so none of them is timed; on a GPU the first one
    also starts the tracing library, which takes seconds. Outside the window `step` and `section`
    do nothing, in under a microsecond.

    Times are wall-clock on a CPU. On CUDA they are between events on the device's stream, read
    when all is done, so that host and device overlap as ever: what the device waits for the host
    counts for the section in which it waits. Other accelerators are waited for at every mark.
    """

    def __init__(self, config: ProfileConfig, folder: Path, device: torch.device) -> None:
        """Write nothing yet; the trace goes to `folder`/profile/ when its last step is done."""
        window = config.window()
        middle = window.start + (len(window) + 1) // 2
        self._timed = range(window.start, middle)
        self._traced = range(middle, window.stop)
        self._device = device
        self._stopwatch = _Stopwatch(device)
        self._trace: profile | None = None
        self._section: Callable[[str], AbstractContextManager[object]] | None = None
        self.trace_file = folder / "profile" / f"steps-{middle + 1}-{window.stop}.json"
        """Where the trace is written: Chrome's format, for Perfetto or chrome://tracing."""

    def step(self, step: int) -> AbstractContextManager[object]:
        """Enclose an optimizer step; `step` were taken before it."""
        if step in self._timed:
            return self._time()
        if step in self._traced:
            return self._record(step)
        return _NOTHING

    def section(self, name: Section) -> AbstractContextManager[object]:
        """Enclose a part of a step; as often as it occurs, but not one within another."""
        return _NOTHING if self._section is None else self._section(name)

    def summary(self, flops_per_step: float) -> dict[str, float]:
        """Return where the timed steps' time went; nothing where no step was timed.

        Args:
            flops_per_step: of this rank; see `count_flops`.
        Returns:
            "profile/data", "profile/forward", "profile/backward", "profile/optimizer" and
            "profile/other", which add up to 1; "profile/flops_per_second" of this rank; and
            "profile/bf16_peak_share", that as a share of `peak_flops`, where it is known.
        """
        seconds = self._stopwatch.seconds()
        if not (steps := self._stopwatch.count("step")):
            return {}
        total = seconds["step"]
        shares = {f"profile/{name}": seconds.get(name, 0.0) / total for name in SECTIONS}
        rate = flops_per_step * steps / total
        values = {
            **shares,
            "profile/other": 1 - sum(shares.values()),
            "profile/flops_per_second": rate,
        }
        if peak := peak_flops(self._device):
            values["profile/bf16_peak_share"] = rate / peak
        return values

    def close(self) -> None:
        """Write the trace as far as it came, where a run ends inside the window."""
        if self._trace is None:
            return
        self._trace.stop()
        self.trace_file.parent.mkdir(parents=True, exist_ok=True)
        self._trace.export_chrome_trace(str(self.trace_file))
        self._trace = None

    @contextmanager
    def _time(self) -> Iterator[None]:
        self._section = self._stopwatch.measure
        with self._stopwatch.measure("step"):
            yield
        self._section = None

    @contextmanager
    def _record(self, step: int) -> Iterator[None]:
        if self._trace is None:  # also where a resumed run begins here
            activities = [ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._trace = profile(activities=activities)
            self._trace.start()
        self._section = record_function
        with record_function(f"step {step + 1}"):
            yield
        self._section = None
        if step + 1 == self._traced.stop:
            self.close()


_Mark = float | torch.cuda.Event


class _Stopwatch:
    """Keeps when its sections began and ended, and reads the device's marks only at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: dict[str, list[tuple[_Mark, _Mark]]] = defaultdict(list)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = self._mark()
        yield
        self._spans[name].append((began, self._mark()))

    def count(self, name: str) -> int:
        return len(self._spans[name])

    def seconds(self) -> dict[str, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return {
            name: sum(_seconds_between(began, ended) for began, ended in spans)
            for name, spans in self._spans.items()
        }

    def _mark(self) -> _Mark:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def _seconds_between(began: _Mark, ended: _Mark) -> float:
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    assert isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event)
    return began.elapsed_time(ended) / 1000  # it gives milliseconds


def count_flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of what `run` computes, a multiply-add being two.

    Counts matrix products, convolutions and attention, forward and backward; not what is
    elementwise, biases, norms, pooling, resampling, the loss or the optimizer. Compiled modules
    run eagerly in it. `run` is executed: within `training.replay.undisturbed` it moves no buffer
    and no random state, but it leaves the gradients of a backward pass.
    """
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Return a device's peak of dense bf16 matrix products in FLOP/s; None where unknown."""
    if device.type != "cuda":
        return None
    return _BF16_PEAK_FLOPS.get(torch.cuda.get_device_name(device))
