"""Reduce on plateau: a lower learning rate where a metric no longer improves."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from training.metric_tracking import BestValue, Mode, MovingAverage
from training.warmup import Schedule


class PlateauSchedule(Schedule):
    """Full learning rate, cut whenever a metric has not improved for a while.

    As torch's ReduceLROnPlateau, with these differences: the cut comes at the `patience`-th value
    without improvement, as in Keras, not one later; `min_change` is relative to the size of
    the best value, so that negative metrics work; the lowest rate is a fraction.
    """

    kind: Literal["plateau"] = "plateau"
    metric: str = Field(default="loss", description="Which logged metric decides.")
    mode: Mode = Field(default="min", description="Whether lower or higher is better.")
    factor: float = Field(default=0.5, gt=0, lt=1, description="Each cut multiplies the rate so.")
    patience: int = Field(
        default=5, ge=1, description="Values in a row without improvement that lead to a cut."
    )
    min_change: float = Field(
        default=1e-3, ge=0, description="Relative change from which on a value is an improvement."
    )
    cooldown: int = Field(
        default=0, ge=0, description="Values after a cut during which none is counted as bad."
    )
    min_factor: float = Field(
        default=1e-3, gt=0, le=1, description="Lowest fraction of the full rate."
    )
    smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Weight of the past in the moving average that is judged; 0: the values as "
        "they are. For a noisy training metric.",
    )


class Plateau:
    """The state of a plateau schedule during a run.

    Attributes:
        factor: on the learning rate, in [min_factor, 1]; the warm-up's comes on top.
    """

    def __init__(self, config: PlateauSchedule) -> None:
        self.factor = 1.0
        self._config = config
        self._best = BestValue(config.mode, config.min_change)
        self._average = MovingAverage(config.smoothing)
        self._waited = 0
        self._cooling = 0

    def update(self, value: float) -> None:
        """Take in the metric's next value; lower `factor` where it is time."""
        # One infinite value would stay in the average for ever.
        judged = self._average.update(value) if math.isfinite(value) else value
        improved = self._best.update(judged)
        self._waited = 0 if improved or self._cooling else self._waited + 1
        self._cooling = max(0, self._cooling - 1)
        if self._waited >= self._config.patience:
            self.factor = max(self.factor * self._config.factor, self._config.min_factor)
            self._waited = 0
            self._cooling = self._config.cooldown

    def state(self) -> dict[str, float]:
        """Return all that a resumed run needs, fit for JSON."""
        return {
            "factor": self.factor,
            "waited": self._waited,
            "cooling": self._cooling,
            **self._best.state(),
            **self._average.state(),
        }

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self.factor = state["factor"]
        self._waited = int(state["waited"])
        self._cooling = int(state["cooling"])
        self._best.load_state(state)
        self._average.load_state(state)
