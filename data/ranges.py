"""Ranges of positive numbers in configs, the smaller one first."""

from typing import Annotated

from pydantic import AfterValidator, Field


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"the smallest must not be above the largest, got {list(value)}")
    return value


_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, le=1)]

PositiveRange = Annotated[tuple[_Positive, _Positive], AfterValidator(_ordered)]
ShareRange = Annotated[tuple[_Share, _Share], AfterValidator(_ordered)]
