"""Rates of several ways to take a step, measured in turn so that all meet the same disturbances."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARMUP_STEPS = 5


Clock = Callable[[], float]
"""Seconds; `time.process_time` counts those that the processor spent on this process alone."""


def images_per_second(
    step: Callable[[], None], steps: int, batch_size: int, clock: Clock = time.perf_counter
) -> float:
    """Return the rate of `steps` calls after a few that do not count."""
    for _ in range(WARMUP_STEPS):
        step()
    _finish()
    began = clock()
    for _ in range(steps):
        step()
    _finish()
    return steps * batch_size / (clock() - began)


def median_rates(
    loops: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    steps: int,
    batch_size: int,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Return each loop's median images per second over `rounds`, in each of which all take turns.

    Every loop is called rounds x (steps + `WARMUP_STEPS`) times. Each round is printed.
    """
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name, step in loops.items():
            rate = images_per_second(step, steps, batch_size, clock)
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:,.0f} images/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def _finish() -> None:
    if torch.cuda.is_available():  # which is told its work and does it later
        torch.cuda.synchronize()
