"""Watching a logged metric: what counts as better, its smoothed value, whether it exists."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from training.errors import InputError

Mode = Literal["min", "max"]


class BestValue:
    """The best value of a metric so far.

    A value is better where it beats the best by more than `min_change` times the best's size. The
    first finite value is always better; one that is not finite never is.

    Attributes:
        value: the best one; None before the first.
    """

    def __init__(self, mode: Mode, min_change: float) -> None:
        self.value: float | None = None
        self._sign = 1.0 if mode == "max" else -1.0
        self._min_change = min_change

    def update(self, value: float) -> bool:
        """Take a value in; tell whether it was better."""
        if not math.isfinite(value):
            return False
        if self.value is not None:
            gain = self._sign * (value - self.value)
            if gain <= self._min_change * abs(self.value):
                return False
        self.value = value
        return True

    def is_worse(self, value: float, by: float) -> bool:
        """Tell whether a value is behind the best by more than `by` times the best's size.

        One that is not finite is; before the first finite one none else is.
        """
        if not math.isfinite(value):
            return True
        return self.value is not None and self._sign * (self.value - value) > by * abs(self.value)

    def state(self) -> dict[str, float]:
        """Return what `load_state` needs."""
        return {} if self.value is None else {"best": self.value}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.value = state.get("best")


class MovingAverage:
    """Exponential moving average with the bias correction of Adam (Kingma & Ba, 2015).

    Without the correction the average would begin near zero; with it the first is the first value.
    """

    def __init__(self, smoothing: float) -> None:
        """Make an empty one; `smoothing` in [0, 1) is the weight of the past, 0: no averaging."""
        self._smoothing = smoothing
        self._sum = 0.0
        self._weight = 0.0

    def update(self, value: float) -> float:
        """Take a value in; return the average."""
        self._sum = self._smoothing * self._sum + (1 - self._smoothing) * value
        self._weight = self._smoothing * self._weight + (1 - self._smoothing)
        return self._sum / self._weight

    def state(self) -> dict[str, float]:
        """Return what `load_state` needs."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self._sum, self._weight = state["sum"], state["weight"]


def check_metric(name: str, known_names: Iterable[str], key: str) -> None:
    """Refuse a metric that the run does not log.

    Args:
        name: the metric asked for.
        known_names: the metrics there are.
        key: the config's key that names it, for the message.
    Raises:
        InputError: one line.
    """
    known = sorted(known_names)
    if name not in known:
        raise InputError(f"{key}: found {name!r}, which is not logged; use {', '.join(known)}")
