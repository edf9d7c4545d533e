"""From a config to fitted heads, of whichever kind."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from downstream.heads.problems import FittedHead, Problems
from downstream.heads.softmax import SoftmaxConfig, fit_softmax, softmax_flops

HeadConfig = Annotated[SoftmaxConfig, Field(discriminator="kind")]


def fit_heads(problems: Problems, config: HeadConfig) -> Sequence[FittedHead]:
    """Choose what each problem's head leaves open inside its labels, and fit it on all of them."""
    return fit_softmax(problems, config)


def head_flops(config: HeadConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    return softmax_flops(config, labels, features, classes)
