"""Correction of p values for the number of comparisons that a study makes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from downstream.statistics import Difference


def holm(p_values: Sequence[float]) -> list[float]:
    """Return each p value corrected for all of them, in the same order.

    Holm (1979), "A simple sequentially rejective multiple test procedure": the chance of one false
    finding or more is at most the level at which all corrected values are read, however the
    comparisons depend on each other.
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for rank, position in enumerate(sorted(range(count), key=lambda at: p_values[at])):
        largest = max(largest, min(1.0, (count - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def corrected_differences(
    comparisons: Sequence[Mapping[int, Difference]],
) -> list[dict[int, Difference]]:
    """Return the differences of comparisons by budget, with p values corrected for all of them."""
    tests = [d.p for paired in comparisons for d in paired.values() if d.p is not None]
    p_holm = iter(holm(tests))
    return [
        {
            budget: d if d.p is None else replace(d, p_holm=next(p_holm))
            for budget, d in paired.items()
        }
        for paired in comparisons
    ]
