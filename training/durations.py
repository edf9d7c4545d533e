"""Durations in configs: whole optimizer steps, or shares of the run."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _duration(value: Any) -> Any:
    is_steps = type(value) is int and value >= 1
    is_share = type(value) is float and 0 < value < 1
    if not (is_steps or is_share):
        raise ValueError("should be a number of steps, 1 or more, or a share of the run below 1.0")
    return value


def _duration_or_none(value: Any) -> Any:
    return value if type(value) in (int, float) and value == 0 else _duration(value)


Duration = Annotated[int | float, BeforeValidator(_duration)]
"""A whole number from 1 on is optimizer steps; a fraction between 0 and 1 a share of the run."""

DurationOrNone = Annotated[int | float, BeforeValidator(_duration_or_none)]
"""A duration, or 0 for none at all."""


def steps_of(duration: float, total_steps: int) -> int:
    """Return a duration in optimizer steps.

    Args:
        duration: steps as an int, or a share of `total_steps` as a float.
        total_steps: steps of the whole.
    Returns:
        The steps as they were given, which may be more than `total_steps`; a share rounded to
        whole steps, 1 at the least.
    """
    if isinstance(duration, int):
        return duration
    return max(1, round(duration * total_steps))
