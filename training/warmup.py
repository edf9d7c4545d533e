"""What all learning-rate schedules share: the warm-up, and the stretch of the run after it."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from training.durations import DurationOrNone
from training.errors import InputError


class Stretch(NamedTuple):
    """The steps of a run as its schedule sees them.

    Attributes:
        warmup: steps of the warm-up.
        after: steps that follow it, 1 or more.
    """

    warmup: int
    after: int

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.warmup + self.after


class Schedule(BaseModel):
    """Base of all schedules: a linear warm-up, and the full learning rate after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: DurationOrNone = Field(
        default=0.05,
        description="Steps, or share of all steps, over which the learning rate rises linearly "
        "to the schedule's first value; 0: none. The first step is never at zero.",
    )

    def stretch(self, total_steps: int) -> Stretch:
        """Return how a run of `total_steps` divides; one step at the least follows the warm-up."""
        steps = self.warmup if isinstance(self.warmup, int) else round(self.warmup * total_steps)
        warmup = min(steps, total_steps - 1)
        return Stretch(warmup, total_steps - warmup)

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        """Return the factor on the learning rate when `taken` steps followed the warm-up."""
        return 1.0

    def check(self, run: Stretch) -> None:
        """Refuse what was given in steps and does not fit this run.

        Raises:
            InputError: names the key, what was found and what would do; one line.
        """
        if isinstance(self.warmup, int) and self.warmup >= run.total:
            raise misfit("warmup", self.warmup, run, f"give fewer than {run.total}, or a share")


def misfit(key: str, found: object, run: Stretch, advice: str) -> InputError:
    """Return the error for a value of the schedule that does not fit the run's length."""
    warmup = f", {run.warmup} of them warm-up" if run.warmup and key != "warmup" else ""
    return InputError(
        f"schedule.{key}: found {found}, but the run has {run.total} steps{warmup}; {advice}"
    )
