"""The learning-rate range test: a short run whose learning rate grows at every step.

Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.errors import InputError, NonFiniteLossError
from training.loop import Trainer
from training.metric_tracking import MovingAverage
from training.optimizers import OptimizerConfig
from training.schedules import ExponentialSchedule

# The average lags by about four steps: a quarter of a decade where a hundred sweep seven.
_SMOOTHING = 0.8
_DIVERGED = 4.0
"""The smoothed loss over the lowest so far at which the sweep ends."""
_NOTABLE_FALL = 0.1
"""Share of the whole fall of the loss from which on a rate is not too small."""
_LEAST_FALL = 0.02
"""Fall of the loss, as a share of it, below which nothing was learned at any rate."""


def check_optimizer(config: OptimizerConfig) -> None:
    """Refuse an optimizer whose rate is only where a line search begins.

    Raises:
        InputError: one line.
    """
    if config.needs_closure:
        raise InputError(
            f"optimizer.kind: found {config.kind!r}, whose learning rate is only the first length "
            "that its line search tries: there is none to find; use another kind, such as 'adamw'"
        )


def range_schedule(first: float, last: float, steps: int) -> ExponentialSchedule:
    """Return the schedule that leads from the optimizer's rate, `first`, to `last` geometrically.

    Args:
        first, last: learning rates of the first and the last step, 0 < first < last.
        steps: optimizer steps, 2 or more.
    Raises:
        InputError: the rates or the steps are not of that kind; one line.
    """
    if not 0 < first < last:
        raise InputError(f"found rates from {first:g} to {last:g}; give 0 < from < to")
    if steps < 2:
        raise InputError(f"found {steps} steps; a range test needs 2 or more, better 100")
    return ExponentialSchedule(warmup=0, every=steps - 1, factor=last / first)


@dataclass(frozen=True)
class UsefulRates:
    """The learning rates at which the loss falls.

    Attributes:
        smallest: where a tenth of the whole fall was done; smaller ones hardly move the loss.
        steepest: where the smoothed loss fell fastest over the logarithm of the rate.
        largest: where the smoothed loss was lowest; larger ones raise it.
    """

    smallest: float
    steepest: float
    largest: float


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Attributes:
        rates: learning rate of each step taken, of the first phase, rising.
        losses: the loss at each, before the step with that rate.
        smoothed: their exponential average, corrected for its start.
        diverged: whether the sweep ended early: the loss was four times its lowest, or not finite.
    """

    rates: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    smoothed: npt.NDArray[np.float64]
    diverged: bool

    def useful_rates(self) -> UsefulRates | None:
        """Return where the loss fell; None where it fell by less than 2 percent."""
        lowest = int(np.argmin(self.smoothed))
        level = float(np.median(self.smoothed[: max(1, len(self.smoothed) // 10)]))
        fall = level - float(self.smoothed[lowest])
        if fall <= _LEAST_FALL * abs(level):
            return None
        still_high = np.flatnonzero(self.smoothed[:lowest] > level - _NOTABLE_FALL * fall)
        smallest = int(still_high[-1]) + 1 if len(still_high) else 0
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        steepest = smallest + int(np.argmin(slopes[smallest : lowest + 1]))
        return UsefulRates(*(float(self.rates[i]) for i in (smallest, steepest, lowest)))


def range_test(trainer: Trainer) -> RangeTest:
    """Take the trainer's steps until the last, or until the loss diverges.

    Args:
        trainer: made with `range_schedule` and its number of steps; used up by this.
    Raises:
        InputError: the loss was not finite before two steps were taken; one line.
    """
    average = MovingAverage(_SMOOTHING)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    diverged = False
    for step in range(trainer.total_steps):
        try:
            metrics = trainer.train_step(step)
        except NonFiniteLossError:
            diverged = True
            break
        name = next(name for name in metrics if name.endswith("loss"))
        loss = float(metrics[name])
        if not math.isfinite(loss):
            diverged = True
            break
        rates.append(float(metrics[name.removesuffix("loss") + "lr"]))
        losses.append(loss)
        smoothed.append(average.update(loss))
        lowest = min(smoothed)
        if smoothed[-1] > lowest + (_DIVERGED - 1) * abs(lowest):
            diverged = True
            break
    if len(rates) < 2:
        raise InputError("the loss was not finite from the start; begin at a smaller rate")
    return RangeTest(np.array(rates), np.array(losses), np.array(smoothed), diverged)


def describe_range_test(test: RangeTest) -> list[str]:
    """Return the regions and suggestions as lines for a terminal."""
    useful = test.useful_rates()
    first, last = test.rates[0], test.rates[-1]
    if useful is None:
        told = f"no rate from {first:.2g} to {last:.2g} lowered the loss"
        if test.diverged:
            return [f"{told}, which diverged at {last:.2g}; begin at a smaller rate (--from)"]
        return [f"{told}; go on to larger rates (--to) or take more steps (--steps)"]
    if test.diverged:
        above = f"diverging:  above {useful.largest:.2g}; the sweep ended at {last:.2g}"
    elif useful.largest == last:
        above = f"too large:  none up to {last:.2g}, where the loss still falls; go on with --to"
    else:
        above = f"too large:  above {useful.largest:.2g}, where the loss is lowest"
    return [
        f"too small:  below {useful.smallest:.2g}, the loss hardly moves",
        f"good:       {useful.smallest:.2g} to {useful.largest:.2g}, the loss falls",
        above,
        f"suggestion: {useful.steepest:.2g}, where the loss falls fastest",
        f"suggestion: {useful.largest / 10:.2g}, a tenth of the rate with the lowest loss",
    ]
