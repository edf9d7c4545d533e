"""Learning-rate schedules by kind: pure functions of the step.

Durations are steps or shares (`training.durations`), and the defaults are shares, so that
`steps=20` alone is a valid run. Lengths count from the end of the warm-up, and their shares are
of the steps after it; only the boundaries of `piecewise` are positions in the whole run.

Step t is the update after t others, as in torch's schedulers. What decays "by the end" would reach
its final value one step after the last, so that the last step still moves; torch's schedulers do
the same where their length is the number of steps after the warm-up, except for OneCycleLR.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from training.durations import Duration, DurationOrNone, steps_of
from training.plateau import PlateauSchedule
from training.warmup import Schedule, Stretch, misfit

_Final = Annotated[
    float,
    Field(ge=0, le=1, description="Fraction of the full learning rate towards which it falls."),
]
_Factor = Annotated[float, Field(gt=0)]


class ConstantSchedule(Schedule):
    """Full learning rate after the warm-up."""

    kind: Literal["constant"] = "constant"


class PiecewiseSchedule(Schedule):
    """A constant learning rate between boundaries.

    As torch's MultiStepLR a factor counts from the step at its boundary on; Keras'
    PiecewiseConstantDecay changes one step later, and lists the first value too.
    """

    kind: Literal["piecewise"] = "piecewise"
    boundaries: tuple[Duration, ...] = Field(
        default=(0.5, 0.75),
        min_length=1,
        description="Steps of the run, or shares of it, at which the learning rate changes.",
    )
    factors: tuple[_Factor, ...] = Field(
        default=(0.1, 0.01),
        description="From each boundary on: the learning rate as a fraction of the full one.",
    )

    @model_validator(mode="after")
    def _factor_per_boundary(self) -> Self:
        if len(self.boundaries) != len(self.factors):
            raise ValueError(
                f"found {len(self.boundaries)} boundaries and {len(self.factors)} factors; "
                "give one factor for each boundary"
            )
        return self

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        factor = 1.0
        for boundary, following in zip(self.boundaries, self.factors, strict=True):
            if run.warmup + taken >= steps_of(boundary, run.total):
                factor = following
        return factor

    def check(self, run: Stretch) -> None:
        super().check(run)
        for boundary in self.boundaries:
            if isinstance(boundary, int) and not run.warmup < boundary < run.total:
                advice = f"give steps from {run.warmup + 1} to {run.total - 1}, or shares"
                raise misfit("boundaries", boundary, run, advice)
        exact = [b if isinstance(b, int) else b * run.total for b in self.boundaries]
        for (one, next_one), shown in zip(pairwise(exact), pairwise(self.boundaries), strict=True):
            if next_one <= one:
                advice = "give boundaries that increase"
                raise misfit("boundaries", f"{shown[0]} before {shown[1]}", run, advice)


class StepSchedule(Schedule):
    """The learning rate times `factor` at equal distances, as torch's StepLR."""

    kind: Literal["step"] = "step"
    every: Duration = Field(default=0.25, description="Steps between drops, or their share.")
    factor: _Factor = Field(default=0.5, description="What each drop multiplies the rate with.")

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return self.factor ** (taken // steps_of(self.every, run.after))

    def check(self, run: Stretch) -> None:
        super().check(run)
        _check_shorter("every", self.every, run)


class ExponentialSchedule(Schedule):
    """factor^(t / every): multiplied by `factor` over each `every` steps, smoothly.

    Keras' ExponentialDecay without its staircase (see `step`), and torch's ExponentialLR with
    gamma = factor^(1 / every). A factor above 1 grows, as the learning-rate range test does.
    """

    kind: Literal["exponential"] = "exponential"
    every: Duration = Field(default=0.5, description="Steps over which it changes by `factor`.")
    factor: _Factor = Field(default=0.1, description="The learning rate's change over `every`.")

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return self.factor ** (taken / steps_of(self.every, run.after))


class InverseTimeSchedule(Schedule):
    """1 / (1 + t / scale)^power: power scheduling; Keras' InverseTimeDecay where `power` is 1."""

    kind: Literal["inverse_time"] = "inverse_time"
    scale: Duration = Field(
        default=0.1, description="Steps after which it has fallen to 1 / 2^power; half at power 1."
    )
    power: float = Field(default=1.0, gt=0)

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return (1 + taken / steps_of(self.scale, run.after)) ** -self.power


class PolynomialSchedule(Schedule):
    """final + (1 - final) (1 - t / T)^power, as Keras' PolynomialDecay and torch's PolynomialLR."""

    kind: Literal["polynomial"] = "polynomial"
    final: _Final = 0.0
    power: float = Field(default=2.0, gt=0)

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return self.final + (1 - self.final) * (1 - taken / run.after) ** self.power


class LinearSchedule(Schedule):
    """A straight line from the full learning rate down to `final`."""

    kind: Literal["linear"] = "linear"
    final: _Final = 0.0

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return self.final + (1 - self.final) * (1 - taken / run.after)


class CosineSchedule(Schedule):
    """Half a cosine from the full learning rate down to `final` (Loshchilov & Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    final: _Final = 0.0

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        return self.final + (1 - self.final) * _half_cosine(taken / run.after)


class CosineRestartsSchedule(Schedule):
    """Half cosines one after the other: SGDR (Loshchilov & Hutter, 2017).

    As Keras' CosineDecayRestarts; torch's CosineAnnealingWarmRestarts has no `m_mul`. By default
    three periods of 1, 2 and 4 parts fill the run. A period given as a share is not rounded to
    whole steps, so that no short rest at the full rate is left at the end.
    """

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    first_period: Duration = Field(default=1 / 7, description="Steps of the first half cosine.")
    t_mul: float = Field(default=2.0, ge=1, description="Each period's length over the last one's.")
    m_mul: float = Field(
        default=1.0, gt=0, le=1, description="Each period's highest rate over the last one's."
    )
    alpha: float = Field(
        default=0.0, ge=0, le=1, description="Lowest rate as a fraction of the full one."
    )

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        is_steps = isinstance(self.first_period, int)
        period = self.first_period if is_steps else max(1.0, self.first_period * run.after)
        if self.t_mul == 1:
            restarts, into_period = divmod(taken, period)
        else:
            restarts, into_period = 0, taken
            while into_period >= period:
                restarts, into_period, period = (
                    restarts + 1,
                    into_period - period,
                    period * self.t_mul,
                )
        share_left = self.m_mul**restarts * _half_cosine(into_period / period)
        return self.alpha + (1 - self.alpha) * share_left

    def check(self, run: Stretch) -> None:
        super().check(run)
        _check_shorter("first_period", self.first_period, run)


class OneCycleSchedule(Schedule):
    """Up to the full learning rate and down far below the first one (Smith, 2018).

    As torch's OneCycleLR with initial = 1 / div_factor and final = initial / final_div_factor,
    except that torch reaches `final` at the last step and counts `rise` - 1 steps to the peak.
    The optimizer's learning rate is the peak. The momentum stays as it is; the paper lowers it
    where the learning rate is high.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    warmup: DurationOrNone = Field(
        default=0, description="Steps before the cycle, which begins with a rise of its own."
    )
    rise: Duration = Field(default=0.3, description="Steps, or their share, up to the peak.")
    initial: float = Field(
        default=0.04, gt=0, le=1, description="First rate as a fraction of the full one."
    )
    final: _Final = 4e-6
    anneal: Literal["cos", "linear"] = Field(
        default="cos", description="Between the turning points."
    )
    three_phase: bool = Field(
        default=False,
        description="The paper's form: as fast down to the first rate, then slowly to the final.",
    )

    def factor_after_warmup(self, taken: int, run: Stretch) -> float:
        rise = steps_of(self.rise, run.after)
        points = [(0, self.initial), (rise, 1.0)]
        if self.three_phase:
            points.append((2 * rise, self.initial))
        points.append((max(run.after, points[-1][0] + 1), self.final))
        (start, high), (end, low) = next(
            (one, other) for one, other in pairwise(points) if taken < other[0]
        )
        progress = (taken - start) / (end - start)
        left = _half_cosine(progress) if self.anneal == "cos" else 1 - progress
        return low + (high - low) * left

    def check(self, run: Stretch) -> None:
        super().check(run)
        _check_shorter("rise", self.rise, run, times=2 if self.three_phase else 1)


ScheduleConfig = Annotated[
    ConstantSchedule
    | PiecewiseSchedule
    | StepSchedule
    | ExponentialSchedule
    | InverseTimeSchedule
    | PolynomialSchedule
    | LinearSchedule
    | CosineSchedule
    | CosineRestartsSchedule
    | OneCycleSchedule
    | PlateauSchedule,
    Field(discriminator="kind"),
]


def multiplier(config: Schedule, step: int, total_steps: int) -> float:
    """Return the factor on every base learning rate at one step.

    Of a `plateau` it is the upper bound: what the metric takes away is a factor of its own,
    `training.plateau.Plateau.factor`.

    Args:
        config: the schedule.
        step: optimizer steps already taken, 0 <= step < total_steps.
        total_steps: steps of the whole run, not of this process.
    Returns:
        A factor above 0; at most 1, unless the schedule's own factors are larger.
    Raises:
        ValueError: the step lies outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} lies outside the run's [0, {total_steps})")
    run = config.stretch(total_steps)
    if step < run.warmup:
        return (step + 1) / (run.warmup + 1) * config.factor_after_warmup(0, run)
    return config.factor_after_warmup(step - run.warmup, run)


def check_schedule(config: Schedule, total_steps: int) -> None:
    """Refuse a schedule whose durations in steps do not fit the run.

    Raises:
        InputError: names the key, what was found and what would do; one line.
    """
    config.check(config.stretch(total_steps))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _check_shorter(key: str, duration: float, run: Stretch, *, times: int = 1) -> None:
    """Refuse a number of steps that, `times` over, leaves nothing of the run after the warm-up."""
    if isinstance(duration, int) and duration * times >= run.after:
        most = max(1, (run.after - 1) // times)
        raise misfit(key, duration, run, f"give {most} or fewer, or a share such as 0.25")
