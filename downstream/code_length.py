"""Online code length: how many bits the labels cost where each block is coded by what came before.

Voita & Titov (2020), "Information-theoretic probing with minimum description length"; Whitney et
al. (2020), "Evaluating representations by the complexity of learning low-loss predictors". It
counts both how good a classifier becomes and how few labels it needs: less is better.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from downstream.arms import Arm
from downstream.resampled_curves import Array, Estimate, MeanCurve, estimate


@dataclass(frozen=True)
class CodeLength:
    """Bits of the labels of the largest budget, and the same without any classifier."""

    bits: Estimate
    uniform: float
    labels: int


def code_lengths(nll: Mapping[Arm, MeanCurve], classes: int) -> dict[Arm, CodeLength]:
    """Return the code length of each arm with two budgets or more.

    Args:
        nll: mean negative log-likelihood on test images, in nats, by budget. It stands for that of
            the labels that follow in the draw, which a study does not score.
        classes: how many; the labels of the smallest budget cost the logarithm of it each.
    """
    return {
        arm: CodeLength(
            estimate(curve, partial(_bits, curve.budgets, classes)),
            float(curve.budgets[-1]) * math.log2(classes),
            int(curve.budgets[-1]),
        )
        for arm, curve in nll.items()
        if len(curve.budgets) > 1
    }


def _bits(budgets: Array, classes: int, nll: Array) -> Array:
    """Bits [...] of nll [..., B] in nats: each block is coded by the classifier before it."""
    first = budgets[0] * math.log2(classes)
    return np.asarray(first + nll[..., :-1] @ np.diff(budgets) / math.log(2))
