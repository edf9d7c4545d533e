"""Rates of several ways to take a step, measured in turn so that all meet the same disturbances."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARMUP_STEPS = 5


def images_per_second(step: Callable[[], None], steps: int, batch_size: int) -> float:
    """Return the rate of `steps` calls after a few that do not count."""
    for _ in range(WARMUP_STEPS):
        step()
    _finish()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _finish()
    return steps * batch_size / (time.perf_counter() - began)


def median_rates(
    loops: Mapping[str, Callable[[], None]], *, rounds: int, steps: int, batch_size: int
) -> dict[str, float]:
    """Return each loop's median images per second over `rounds`, in each of which all take turns.

    Every loop is called rounds x (steps + `WARMUP_STEPS`) times. Each round is printed.
    """
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name, step in loops.items():
            rate = images_per_second(step, steps, batch_size)
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:,.0f} images/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def _finish() -> None:
    if torch.cuda.is_available():  # which is told its work and does it later
        torch.cuda.synchronize()
