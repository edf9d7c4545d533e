"""Early stopping: an end before the last step, where a metric no longer improves."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from training.metric_tracking import BestValue, Mode


class EarlyStoppingConfig(BaseModel):
    """When to stop early (Prechelt, 1998), and with which weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(default="loss", description="Which logged metric decides.")
    mode: Mode = Field(default="min", description="Whether lower or higher is better.")
    patience: int = Field(
        default=10, ge=1, description="Values in a row without improvement that end the run."
    )
    min_change: float = Field(
        default=0.0, ge=0, description="Relative change from which on a value is an improvement."
    )
    worse_by: float = Field(
        default=0.0,
        ge=0,
        description="Relative distance from the best within which a value does not count as one "
        "without improvement: 1.0 ends runs whose metric has doubled, not those that stand still.",
    )
    restore_best: bool = Field(
        default=True, description="End with the weights of the best value, not with the last."
    )


class EarlyStopping:
    """The state of early stopping during a run.

    Attributes:
        best_step: steps taken at the best value; None before the first finite value.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.best_step: int | None = None
        self._patience = config.patience
        self._worse_by = config.worse_by
        self._best = BestValue(config.mode, config.min_change)
        self._waited = 0

    @property
    def should_stop(self) -> bool:
        """Whether `patience` values in a row brought no improvement, or were so much worse."""
        return self._waited >= self._patience

    def update(self, value: float, step: int) -> bool:
        """Take in the metric's value after `step` steps; tell whether it is the best so far."""
        improved = self._best.update(value)
        if improved:
            self.best_step = step
        bearable = self._worse_by > 0 and not self._best.is_worse(value, self._worse_by)
        self._waited = 0 if improved or bearable else self._waited + 1
        return improved

    def state(self) -> dict[str, float]:
        """Return all that a resumed run needs, fit for JSON."""
        best_step = {} if self.best_step is None else {"best_step": self.best_step}
        return {"waited": self._waited, **best_step, **self._best.state()}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` returned."""
        self._waited = int(state["waited"])
        self.best_step = int(state["best_step"]) if "best_step" in state else None
        self._best.load_state(state)
