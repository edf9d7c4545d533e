"""Schedules against the published formulas, against torch's own, and at the edges of a run."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch.optim import SGD
from torch.optim import lr_scheduler as torch_schedules

from training.config import dump_config, load_config
from training.durations import Duration, steps_of
from training.errors import InputError
from training.plateau import PlateauSchedule
from training.schedules import (
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseTimeSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PiecewiseSchedule,
    PolynomialSchedule,
    ScheduleConfig,
    StepSchedule,
    check_schedule,
    multiplier,
)
from training.warmup import Schedule

KINDS = [
    ConstantSchedule,
    PiecewiseSchedule,
    StepSchedule,
    ExponentialSchedule,
    InverseTimeSchedule,
    PolynomialSchedule,
    LinearSchedule,
    CosineSchedule,
    CosineRestartsSchedule,
    OneCycleSchedule,
    PlateauSchedule,
]


class Run(BaseModel):
    schedule: ScheduleConfig = ConstantSchedule()


def factors(schedule: Schedule, steps: int) -> list[float]:
    return [multiplier(schedule, step, steps) for step in range(steps)]


def torch_factors(
    make: Callable[[SGD], torch_schedules.LRScheduler], steps: int, lr: float = 1.0
) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


# ---------------------------------------------------------------- every kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_needs_nothing_but_its_name(kind: type[Schedule], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    name = kind.model_fields["kind"].default
    file.write_text(f"schedule: {{kind: {name}}}")
    schedule = load_config(Run, file).schedule
    assert type(schedule) is kind
    file.write_text(dump_config(Run(schedule=schedule)))
    assert load_config(Run, file).schedule == schedule
    for steps in (1, 2, 3, 20, 101, 1000):
        check_schedule(schedule, steps)
        values = factors(schedule, steps)
        assert min(values) > 0 and max(values) <= 1
    assert max(values) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [100, 0.1])
def test_any_kind_follows_a_linear_warmup(kind: type[Schedule], warmup: float) -> None:
    schedule = kind(warmup=warmup)
    values = factors(schedule, 1000)
    first = values[100]
    assert values[:100] == pytest.approx([first * (t + 1) / 101 for t in range(100)])
    assert first == pytest.approx(0.04 if kind is OneCycleSchedule else 1.0)
    if kind is not PiecewiseSchedule:  # its boundaries are positions in the whole run
        assert values[100:] == pytest.approx(factors(kind(warmup=0), 900))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 20, 1000])
def test_no_step_of_any_run_is_at_rate_zero(kind: type[Schedule], total: int) -> None:
    values = [multiplier(kind(), step, total) for step in range(total)]
    assert min(values) > 0 and max(values) <= 1.0


def test_a_step_outside_the_run_has_no_rate() -> None:
    for step in (-1, 100):
        with pytest.raises(ValueError, match="outside the run"):
            multiplier(ConstantSchedule(), step, 100)


# ---------------------------------------------------------------- published formulas


def test_exponential_formula() -> None:
    schedule = ExponentialSchedule(warmup=0, every=250, factor=0.1)
    assert factors(schedule, 1000) == pytest.approx([0.1 ** (t / 250) for t in range(1000)])
    share = ExponentialSchedule(warmup=0, every=0.25, factor=0.1)
    assert factors(share, 1000) == factors(schedule, 1000)


def test_inverse_time_formula() -> None:
    schedule = InverseTimeSchedule(warmup=0, scale=40, power=1.5)
    assert factors(schedule, 200) == pytest.approx([1 / (1 + t / 40) ** 1.5 for t in range(200)])
    assert multiplier(InverseTimeSchedule(warmup=0, scale=40), 40, 200) == 0.5


def test_polynomial_formula() -> None:
    schedule = PolynomialSchedule(warmup=0, final=0.1, power=3)
    expected = [0.1 + 0.9 * (1 - t / 200) ** 3 for t in range(200)]
    assert factors(schedule, 200) == pytest.approx(expected)
    line = factors(PolynomialSchedule(power=1), 200)
    assert line == pytest.approx(factors(LinearSchedule(), 200))


def test_cosine_formula() -> None:
    schedule = CosineSchedule(warmup=0, final=0.2)
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * t / 200)) / 2 for t in range(200)]
    assert factors(schedule, 200) == pytest.approx(expected)


@pytest.mark.parametrize("t_mul", [1.0, 1.5, 2.0])
def test_cosine_restarts_formula_of_keras(t_mul: float) -> None:
    def keras(t: int, first: int, m_mul: float, alpha: float) -> float:
        done = t / first
        if t_mul == 1:
            restarts = math.floor(done)
            part = done - restarts
        else:
            # The period's number from the geometric series; the hair keeps exact restarts exact.
            restarts = math.floor(math.log(1 - done * (1 - t_mul)) / math.log(t_mul) + 1e-9)
            begun = (1 - t_mul**restarts) / (1 - t_mul)
            part = (done - begun) / t_mul**restarts
        cosine = 0.5 * m_mul**restarts * (1 + math.cos(math.pi * part))
        return (1 - alpha) * cosine + alpha

    schedule = CosineRestartsSchedule(warmup=0, first_period=40, t_mul=t_mul, m_mul=0.7, alpha=0.05)
    assert factors(schedule, 500) == pytest.approx([keras(t, 40, 0.7, 0.05) for t in range(500)])


def test_restarts_by_default_are_three_periods_that_fill_the_run() -> None:
    for steps in (70, 101, 1000, 1003):
        values = factors(CosineRestartsSchedule(warmup=0), steps)
        rises = [t for t in range(1, steps) if values[t] > values[t - 1]]
        assert rises == [math.ceil(steps / 7), math.ceil(3 * steps / 7)]
        assert values[-1] < 0.02


# ---------------------------------------------------------------- torch's own

STEPS = 300


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (
            ExponentialSchedule(warmup=0, every=50, factor=0.3),
            lambda o: torch_schedules.ExponentialLR(o, gamma=0.3 ** (1 / 50)),
        ),
        (
            PiecewiseSchedule(warmup=0, boundaries=(100, 0.8), factors=(0.2, 0.04)),
            lambda o: torch_schedules.MultiStepLR(o, [100, 240], gamma=0.2),
        ),
        (
            StepSchedule(warmup=0, every=70, factor=0.3),
            lambda o: torch_schedules.StepLR(o, 70, gamma=0.3),
        ),
        (
            PolynomialSchedule(warmup=0, power=2.5),
            lambda o: torch_schedules.PolynomialLR(o, STEPS, power=2.5),
        ),
        (
            LinearSchedule(warmup=0, final=0.1),
            lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, total_iters=STEPS),
        ),
        (
            CosineSchedule(warmup=0, final=0.1),
            lambda o: torch_schedules.CosineAnnealingLR(o, STEPS, eta_min=0.1),
        ),
        (
            CosineRestartsSchedule(warmup=0, first_period=30, t_mul=1, alpha=0.1),
            lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 30, 1, eta_min=0.1),
        ),
        (
            CosineRestartsSchedule(warmup=0, first_period=30, t_mul=2),
            lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 30, 2),
        ),
        (
            # LinearLR reaches the full rate at its total_iters-th step, ours one after the warm-up.
            ConstantSchedule(warmup=30),
            lambda o: torch_schedules.LinearLR(o, 1 / 31, total_iters=30),
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_same_as_torch(
    schedule: Schedule, make: Callable[[SGD], torch_schedules.LRScheduler]
) -> None:
    assert factors(schedule, STEPS) == pytest.approx(torch_factors(make, STEPS), rel=1e-9)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_same_as_torch(anneal: str, three_phase: bool) -> None:
    schedule = OneCycleSchedule(
        rise=90, initial=1 / 25, final=1 / 25e4, anneal=anneal, three_phase=three_phase
    )
    # Torch puts its turning points one step before a share of all, and ends at `final` itself.
    expected = torch_factors(
        lambda o: torch_schedules.OneCycleLR(
            o,
            max_lr=1.0,
            total_steps=STEPS + 1,
            pct_start=91 / (STEPS + 1),
            anneal_strategy=anneal,  # type: ignore[arg-type]
            div_factor=25,
            final_div_factor=1e4,
            three_phase=three_phase,
            cycle_momentum=False,
        ),
        STEPS,
    )
    assert factors(schedule, STEPS) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- durations


def test_durations() -> None:
    assert [steps_of(d, 2000) for d in (5, 5000, 0.25, 1e-9)] == [5, 5000, 500, 1]
    adapter = TypeAdapter(Duration)
    assert type(adapter.validate_python(7)) is int
    assert adapter.validate_python(0.5) == 0.5
    for wrong in (0, -3, 1.0, 2.5, 0.0, True, "5", None):
        with pytest.raises(ValidationError, match="number of steps, 1 or more, or a share"):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (ConstantSchedule(warmup=2000), "schedule.warmup: found 2000, but the run has 2000 steps"),
        (
            PiecewiseSchedule(boundaries=(500, 5000)),
            "schedule.boundaries: found 5000, but the run has 2000 steps",
        ),
        (PiecewiseSchedule(boundaries=(100, 0.5)), "100 of them warm-up; give steps from 101 to"),
        (PiecewiseSchedule(boundaries=(0.75, 800)), "found 0.75 before 800, but"),
        (PiecewiseSchedule(boundaries=(0.75, 0.5)), "give boundaries that increase"),
        (StepSchedule(every=1900), "schedule.every: found 1900, .* give 1899 or fewer"),
        (CosineRestartsSchedule(first_period=2000), "schedule.first_period: found 2000"),
        (OneCycleSchedule(rise=2000), "schedule.rise: found 2000"),
        (OneCycleSchedule(rise=1000, three_phase=True), "schedule.rise: .* give 999 or fewer"),
        (PlateauSchedule(warmup=3000), "schedule.warmup: found 3000"),
    ],
)
def test_steps_that_do_not_fit_the_run_are_refused_in_one_line(
    schedule: Schedule, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        check_schedule(schedule, 2000)
    assert "\n" not in str(refused.value)


def test_steps_that_fit_are_accepted() -> None:
    check_schedule(
        PiecewiseSchedule(warmup=100, boundaries=(101, 0.5, 1999), factors=(1,) * 3), 2000
    )
    check_schedule(StepSchedule(warmup=0, every=1999), 2000)
    check_schedule(OneCycleSchedule(rise=999, three_phase=True), 2000)
    check_schedule(ExponentialSchedule(every=10_000, factor=0.96), 2000)
    check_schedule(ConstantSchedule(warmup=1999), 2000)


def test_a_factor_for_each_boundary() -> None:
    with pytest.raises(ValidationError, match="one factor for each boundary"):
        PiecewiseSchedule(boundaries=(0.2, 0.4, 0.6))
