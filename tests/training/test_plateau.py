"""Reduce on plateau against torch's, early stopping, and that both go on where they were."""

import json
import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from training.early_stopping import EarlyStopping, EarlyStoppingConfig
from training.errors import InputError
from training.metric_tracking import MovingAverage, check_metric
from training.plateau import Plateau, PlateauSchedule


def noisy_losses(count: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [1 / (1 + t / 20) + draw.gauss(0, 0.05) + 1 for t in range(count)]


def plateau_factors(config: PlateauSchedule, values: Sequence[float]) -> list[float]:
    plateau = Plateau(config)
    factors = []
    for value in values:
        plateau.update(value)
        factors.append(plateau.factor)
    return factors


@pytest.mark.parametrize("cooldown", [0, 4])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [1, 3, 8])
def test_cuts_where_torch_cuts(mode: str, patience: int, cooldown: int) -> None:
    config = PlateauSchedule(
        mode=mode,
        patience=patience,
        cooldown=cooldown,
        factor=0.3,
        min_change=0.01,
        min_factor=0.01,
    )
    values = noisy_losses(200)
    if mode == "max":
        values = [3 - value for value in values]

    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = ReduceLROnPlateau(
        optimizer,
        mode=mode,  # type: ignore[arg-type]
        factor=0.3,
        patience=patience - 1,  # torch cuts at the value after these
        threshold=0.01,
        cooldown=cooldown,
        min_lr=0.01,
        eps=0,
    )
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])

    factors = plateau_factors(config, values)
    assert factors == pytest.approx(expected, rel=1e-12)
    assert len(set(factors)) > 3


def test_a_cut_comes_at_the_value_that_patience_names() -> None:
    config = PlateauSchedule(patience=3, factor=0.5, min_change=0)
    assert plateau_factors(config, [1, 0.9, 0.9, 0.95, 0.91, 0.8]) == [1, 1, 1, 1, 0.5, 0.5]


def test_a_relative_change_works_below_zero_too() -> None:
    config = PlateauSchedule(patience=1, min_change=0.1)
    assert plateau_factors(config, [-10, -10.5, -11.2]) == [1, 0.5, 0.5]
    assert plateau_factors(config, [-10, -11.2, -12.5]) == [1, 1, 1]


def test_values_that_are_not_finite_never_improve_and_do_not_stay() -> None:
    config = PlateauSchedule(patience=2, smoothing=0.5, min_change=0)
    assert plateau_factors(config, [2, math.nan, 1, math.inf, 0.5, 0.25]) == [1] * 6
    assert plateau_factors(config, [2, math.nan, math.inf])[-1] == 0.5


def test_smoothing_spares_a_noisy_metric_most_cuts() -> None:
    draw = random.Random(1)
    falling = [10 * 0.97**t * draw.uniform(0.5, 1.5) for t in range(200)]
    raw = plateau_factors(PlateauSchedule(patience=8), falling)
    smooth = plateau_factors(PlateauSchedule(patience=8, smoothing=0.9), falling)
    assert smooth[-1] > 10 * raw[-1]


def test_moving_average_is_unbiased_from_the_first_value_on() -> None:
    average = MovingAverage(0.9)
    assert average.update(5.0) == pytest.approx(5.0)
    expected = (0.9 * 5 + 2) / (0.9 + 1)
    assert average.update(2.0) == pytest.approx(expected)


def test_plateau_goes_on_from_its_state() -> None:
    config = PlateauSchedule(patience=4, cooldown=3, smoothing=0.7, factor=0.7)
    values = noisy_losses(120)
    whole = plateau_factors(config, values)
    assert len(set(whole)) > 3
    for cut in range(0, 120, 7):
        first = Plateau(config)
        for value in values[:cut]:
            first.update(value)
        second = Plateau(config)
        second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
        rest = []
        for value in values[cut:]:
            second.update(value)
            rest.append(second.factor)
        assert rest == whole[cut:]


def test_early_stopping_names_the_best_step_and_stops_after_patience() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=3))
    improved = []
    for step, value in zip(range(10, 80, 10), [3.0, 2.0, 2.5, 1.0, 1.0, 1.1, 1.2], strict=True):
        assert not stopping.should_stop
        improved.append(stopping.update(value, step))
    assert improved == [True, True, False, True, False, False, False]
    assert stopping.should_stop
    assert stopping.best_step == 40


def test_early_stopping_counts_small_gains_as_none() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(mode="max", patience=2, min_change=0.1))
    for step, value in enumerate([0.5, 0.52, 0.54]):
        stopping.update(value, step)
    assert stopping.should_stop
    assert stopping.best_step == 0


def test_early_stopping_can_wait_for_what_is_much_worse() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2, worse_by=1.0))
    for value in [1.0, 1.9, 1.5, 2.1, 1.9, math.nan]:
        stopping.update(value, 0)
        assert not stopping.should_stop
    stopping.update(2.1, 0)
    assert stopping.should_stop


def test_early_stopping_goes_on_from_its_state() -> None:
    values = [math.nan, 3.0, 2.0, 2.5, 2.2, 2.1, 2.3]
    config = EarlyStoppingConfig(patience=4)
    for cut in range(len(values)):
        first, second = EarlyStopping(config), EarlyStopping(config)
        for step in range(cut):
            first.update(values[step], step)
        second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
        for step in range(cut, len(values)):
            assert not second.should_stop
            second.update(values[step], step)
        assert second.should_stop
        assert second.best_step == 2


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    check_metric("loss", ["lr", "loss"], "schedule.metric")
    with pytest.raises(InputError, match=r"schedule\.metric: found 'los'.* use loss, lr$"):
        check_metric("los", ["lr", "loss"], "schedule.metric")
