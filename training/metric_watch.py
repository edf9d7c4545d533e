"""What a run decides by its logged metrics: a lower learning rate, an end, the best weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from training.early_stopping import EarlyStopping, EarlyStoppingConfig
from training.metric_tracking import check_metric
from training.plateau import Plateau, PlateauSchedule
from training.warmup import Schedule


class MetricWatch:
    """A run's plateau schedule and early stopping, as far as it has them.

    Attributes:
        early_stopping: its config; None without it.
    """

    def __init__(self, schedule: Schedule, early_stopping: EarlyStoppingConfig | None) -> None:
        self.early_stopping = early_stopping
        self._plateau_config = schedule if isinstance(schedule, PlateauSchedule) else None
        self._plateau = Plateau(self._plateau_config) if self._plateau_config else None
        self._stopping = EarlyStopping(early_stopping) if early_stopping else None

    @property
    def is_needed(self) -> bool:
        """Whether any metric is watched."""
        return self._plateau is not None or self._stopping is not None

    @property
    def lr_factor(self) -> float:
        """What the plateau leaves of the schedule's learning rate, in (0, 1]."""
        return self._plateau.factor if self._plateau else 1.0

    @property
    def should_stop(self) -> bool:
        """Whether the metric has not improved for as long as early stopping waits."""
        return self._stopping is not None and self._stopping.should_stop

    @property
    def best_step(self) -> int | None:
        """Steps taken at the best value of early stopping; None before it or without it."""
        return self._stopping.best_step if self._stopping else None

    def check(self, metrics: Iterable[str]) -> None:
        """Refuse to watch what is not among the logged `metrics`.

        Raises:
            InputError: names the key and the metrics there are; one line.
        """
        names = list(metrics)
        if self._plateau_config:
            check_metric(self._plateau_config.metric, names, "schedule.metric")
        if self.early_stopping:
            check_metric(self.early_stopping.metric, names, "early_stopping.metric")

    def update(self, step: int, values: Mapping[str, float]) -> bool:
        """Take in what was logged after `step` steps, as far as a watched metric is among it.

        Returns:
            Whether the weights are now the best that early stopping has seen.
        """
        if self._plateau and self._plateau_config and self._plateau_config.metric in values:
            self._plateau.update(values[self._plateau_config.metric])
        if self._stopping and self.early_stopping and self.early_stopping.metric in values:
            return self._stopping.update(values[self.early_stopping.metric], step)
        return False

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, fit for JSON."""
        state: dict[str, Any] = {}
        if self._plateau:
            state["plateau"] = self._plateau.state()
        if self._stopping:
            state["early_stopping"] = self._stopping.state()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self._plateau and "plateau" in state:
            self._plateau.load_state(state["plateau"])
        if self._stopping and "early_stopping" in state:
            self._stopping.load_state(state["early_stopping"])
