"""Learning-rate schedules: pure functions of the step, with durations as fractions of the run."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Warmup(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of all steps over which the learning rate rises linearly to its full "
        "value; the first step is never at zero.",
    )


class _Decay(_Warmup):
    final: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Fraction of the full learning rate towards which it falls by the end.",
    )


class ConstantSchedule(_Warmup):
    """Full learning rate after the warm-up."""

    kind: Literal["constant"] = "constant"


class CosineSchedule(_Decay):
    """Half a cosine from the full learning rate down to `final` (Loshchilov & Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"


class LinearSchedule(_Decay):
    """A straight line from the full learning rate down to `final`."""

    kind: Literal["linear"] = "linear"


ScheduleConfig = Annotated[
    ConstantSchedule | CosineSchedule | LinearSchedule, Field(discriminator="kind")
]


def multiplier(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Return the factor on every base learning rate at one step.

    The decay would reach `final` one step after the last, so that with `final=0` the last step
    still moves.

    Args:
        config: the schedule.
        step: optimizer steps already taken, 0 <= step < total_steps.
        total_steps: steps of the whole run, not of this process.
    Returns:
        A factor in (0, 1], or `final` at the least.
    Raises:
        ValueError: the step lies outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} lies outside the run's [0, {total_steps})")
    warmup_steps = min(round(config.warmup * total_steps), total_steps - 1)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if isinstance(config, ConstantSchedule):
        return 1.0
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    if isinstance(config, CosineSchedule):
        share_left = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share_left = 1 - progress
    return config.final + (1 - config.final) * share_left
