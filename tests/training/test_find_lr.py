"""The learning-rate range test, on synthetic losses and as its users run it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from pretrain.config import PretrainConfig
from pretrain.run import make_trainer
from tests.processes import run_module
from training.__main__ import main
from training.config import load_config
from training.errors import InputError
from training.find_lr import RangeTest, describe_range_test, range_schedule, range_test
from training.metric_tracking import MovingAverage
from training.optimizers import OptimizerConfig

KINDS = {config().kind: config for config in get_args(get_args(OptimizerConfig)[0])}


def seen(losses: Callable[[Any], Any], last: float = 10.0, *, diverged: bool = False) -> RangeTest:
    """A range test of 200 rates from 1e-6 whose losses are a function of the rate."""
    rates = np.geomspace(1e-6, last, 200)
    values = losses(rates)
    average = MovingAverage(0.5)
    smoothed = np.array([average.update(value) for value in values])
    return RangeTest(rates, values, smoothed, diverged)


def valley(rates: Any) -> Any:
    """Flat at 2 below 1e-4, down to 1 at 1e-1, and up again."""
    decades = np.log10(rates)
    return 2 - np.clip((decades + 4) / 3, 0, 1) + np.clip(decades + 1, 0, 1) ** 2


def test_finds_the_regions_of_a_known_valley() -> None:
    useful = seen(valley).useful_rates()
    assert useful is not None
    # A tenth of the fall is done at 10^-3.7.
    assert useful.smallest == pytest.approx(10**-3.7, rel=0.5)
    assert 1e-4 < useful.smallest < useful.steepest < useful.largest
    assert useful.largest == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (seen(valley), ["too small:", "good:", "too large:  above"]),
        (seen(valley, diverged=True), ["diverging:  above", "the sweep ended at 10"]),
        (seen(valley, last=1e-2), ["none up to 0.01", "--to"]),
        (seen(np.ones_like), ["no rate", "larger rates (--to)"]),
        (seen(lambda rates: 1 + rates * 1e3, diverged=True), ["diverged at 10", "--from"]),
    ],
)
def test_says_what_it_saw(test: RangeTest, words: list[str]) -> None:
    told = "\n".join(describe_range_test(test))
    for word in words:
        assert word in told


def test_rates_grow_geometrically_between_both_ends() -> None:
    schedule = range_schedule(1e-5, 10, 61)
    factors = [schedule.factor_after_warmup(step, schedule.stretch(61)) for step in range(61)]
    assert np.allclose(np.diff(np.log(factors)), math.log(1e6) / 60)
    assert factors[0] == 1


@pytest.fixture
def trainer(config: Path, accelerator: Any) -> Callable[..., Any]:
    def make(*overrides: str, first: float, last: float, steps: int) -> Any:
        values = load_config(PretrainConfig, config, [*overrides, f"optimizer.lr={first}"])
        schedule = range_schedule(first, last, steps)
        store = values.data.open(values.data.shards)
        return make_trainer(values, store, accelerator, total_steps=steps, schedule=schedule)

    return make


@pytest.mark.parametrize("kind", [kind for kind, c in KINDS.items() if not c.needs_closure])
def test_every_optimizer_with_a_rate_can_be_swept(kind: str, trainer: Callable[..., Any]) -> None:
    found = range_test(trainer(f"optimizer.kind={kind}", first=1e-5, last=1e3, steps=60))
    useful = found.useful_rates()
    assert useful is not None
    assert 1e-5 < useful.smallest <= useful.steepest <= useful.largest
    # However robust, no optimizer trains at a thousand.
    assert found.diverged or useful.largest < 500


def test_the_suggested_rate_trains_and_the_others_do_not(trainer: Callable[..., Any]) -> None:
    sgd = "optimizer.kind=sgd"
    found = range_test(trainer(sgd, first=1e-5, last=1e3, steps=100))
    useful = found.useful_rates()
    assert useful is not None and found.diverged

    def loss_after_30_steps(rate: float) -> float:
        made = trainer(sgd, first=rate, last=rate * 1.0001, steps=30)
        losses = [float(made.train_step(step)["loss"]) for step in range(30)]
        return float(np.mean(losses[-5:])) / losses[0]

    assert loss_after_30_steps(useful.smallest / 30) > 0.9
    assert loss_after_30_steps(useful.steepest) < 0.7
    with pytest.raises(InputError, match="loss is"):
        loss_after_30_steps(float(found.rates[-1]) * 100)


@pytest.mark.slow
def test_writes_a_picture_and_its_numbers_and_no_run(config: Path, tmp_path: Path) -> None:
    arguments = ["--to", 1, "optimizer.kind=momentum", "--steps", 40, "batch_size=64"]
    done = run_module(
        "training", "find-lr", config, *arguments, "--out", "pictures/lr.png", cwd=tmp_path
    )
    assert "good:" in done.stdout
    with Image.open(tmp_path / "pictures" / "lr.png") as picture:
        assert picture.width > 1000
    numbers = json.loads((tmp_path / "pictures" / "lr.json").read_text())
    assert numbers["lr"][0] == pytest.approx(1e-6)
    assert numbers["diverged"] or numbers["lr"][-1] == pytest.approx(1)
    assert len(numbers["loss"]) == len(numbers["lr"]) == len(numbers["smoothed_loss"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimizer.kind=lbfgs"], ["optimizer.kind", "lbfgs", "adamw"]),
        (["optimizer.kind=newton_cg"], ["optimizer.kind", "newton_cg"]),
        (["--from", "1", "--to", "0.1"], ["1", "0.1", "from"]),
        (["--steps", "1"], ["1 steps", "100"]),
        (["optimizer.momentum=1"], ["optimizer.momentum"]),
        (["--steps", "5", "--out", "digits.yaml/lr.png"], ["digits.yaml/lr.png", "written"]),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str],
    words: list[str],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config.parent)
    assert main(["find-lr", config.name, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_an_unknown_option_is_not_taken_for_an_override(config: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["find-lr", str(config), "--stepz", "5"])
    assert ended.value.code == 2
