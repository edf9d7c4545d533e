"""What a long run does besides its steps: averages, plateau, early end, health, profile."""

import json
import math
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def checkpoint(run: Path, name: str) -> dict[str, Tensor]:
    folder = run / "checkpoints" / (run / "checkpoints/LATEST").read_text()
    return load_file(folder / f"{name}.safetensors")


def run_in_two_parts(digits: ModuleType, run: Path, *options: str) -> None:
    """Train until the loss breaks on purpose; go on from the last checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKEN_FROM", "25")
        assert digits.main([str(run), *options, "checkpoint.every=10"]) == 2
    assert digits.main([str(run), *options, "checkpoint.every=10", "--resume"]) == 0


@pytest.mark.parametrize(
    "average", [["average.kind=ema", "average.decay=0.9"], ["average.kind=swa"]]
)
def test_the_average_is_kept_resumed_and_exported(
    digits: ModuleType, tmp_path: Path, average: list[str]
) -> None:
    options = ["steps=40", *average]
    assert digits.main([str(tmp_path / "straight"), *options]) == 0
    run_in_two_parts(digits, tmp_path / "resumed", *options)

    expected = checkpoint(tmp_path / "straight", "average")
    for name, value in checkpoint(tmp_path / "resumed", "average").items():
        assert torch.equal(value, expected[name]), name
    exported = load_file(tmp_path / "straight/export.safetensors")
    assert torch.equal(exported["head.weight"], expected["head.weight"])
    last = checkpoint(tmp_path / "straight", "model")
    assert not torch.equal(exported["head.weight"], last["head.weight"])


def test_a_plateau_cuts_the_rate_and_is_resumed(digits: ModuleType, tmp_path: Path) -> None:
    options = [
        "steps=40", "log.every=2", "schedule.kind=plateau", "schedule.warmup=0",
        "schedule.patience=2", "schedule.min_change=0.5", "optimizer.lr=1e-3",
    ]  # fmt: skip
    assert digits.main([str(tmp_path / "straight"), *options]) == 0
    run_in_two_parts(digits, tmp_path / "resumed", *options)
    rates = [line["lr"] for line in lines(tmp_path / "straight")]
    assert rates[:3] == [1e-3] * 3
    assert rates[-1] < 2e-4 and sorted(rates, reverse=True) == rates
    assert [line["lr"] for line in lines(tmp_path / "resumed")] == rates


def test_an_early_end_restores_the_best_weights(
    digits: ModuleType, tmp_path: Path, capsys: Any
) -> None:
    # Far too high a rate after a good beginning: the loss rises again.
    options = [
        "steps=200", "log.every=1", "schedule.kind=exponential", "schedule.warmup=0",
        "schedule.factor=1e6", "optimizer.kind=sgd", "optimizer.lr=1e-2", "clip.kind=none",
        "early_stopping.patience=12",
    ]  # fmt: skip
    run = tmp_path / "run"
    assert digits.main([str(run), *options]) == 0
    out = capsys.readouterr().out
    logged = lines(run)
    best = min(logged, key=lambda line: line["loss"] if line["loss"] is not None else math.inf)
    assert logged[-1]["step"] == best["step"] + 12 < 200
    assert f"weights of step {best['step']}, the best ones" in out
    assert f"stopped early at step {logged[-1]['step']} of 200" in out

    # The weights are those that a run of just so many steps ends with.
    again = tmp_path / "again"
    assert digits.main([str(again), *options, "early_stopping.patience=500", "--overwrite"]) in (
        0,
        2,
    )
    model = checkpoint(run, "model")
    exported = load_file(run / "export.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in model.items())
    capsys.readouterr()
    assert digits.main([str(run), *options, "--resume"]) == 0
    assert f"all {logged[-1]['step']} steps are done already; it stopped early" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (
            "early_stopping.metric=acuracy",
            "early_stopping.metric: found 'acuracy', which is not logged; use accuracy, grad_norm,",
        ),
        ("schedule.metric=los", "schedule.metric: found 'los', which is not logged"),
        ("profile.steps=30:60", "profile.steps: found '30:60', but the run has 40 steps"),
        ("schedule.warmup=50", "schedule.warmup: found 50, but the run has 40 steps"),
        ("compute.checkpoint_stages=true", "compute.checkpoint_stages: found true"),
        ("log.trackers=[mlflow]", "log.trackers: found 'mlflow', which is not installed; pip"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    digits: ModuleType, tmp_path: Path, capsys: Any, option: str, complaint: str
) -> None:
    schedule = ["schedule.kind=plateau"] if option.startswith("schedule.metric") else []
    assert digits.main([str(tmp_path / "run"), "steps=40", *schedule, option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {complaint}") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_health_is_logged_and_does_not_disturb(
    digits: ModuleType, tmp_path: Path, capsys: Any
) -> None:
    options = ["steps=30", "critic=true"]
    assert digits.main([str(tmp_path / "with"), *options, "health.every=10"]) == 0
    assert digits.main([str(tmp_path / "without"), *options, "health.every=0"]) == 0
    expected = checkpoint(tmp_path / "without", "model")
    for name, value in checkpoint(tmp_path / "with", "model").items():
        assert torch.equal(value, expected[name]), name

    measured = {line["step"]: line for line in lines(tmp_path / "with")}
    assert [s for s, line in measured.items() if "health/dead/features" in line] == [10, 20, 30]
    for stage in ("features", "head", "critic"):
        assert 1e-5 < measured[20][f"health/update_ratio/{stage}"] < 1
        assert measured[20][f"health/grad_norm/{stage}"] > 0
    assert not any(key.startswith("health") for line in lines(tmp_path / "without") for key in line)

    capsys.readouterr()
    reckless = ["steps=20", "health.every=10", "optimizer.kind=sgd", "optimizer.lr=30"]
    assert digits.main([str(tmp_path / "reckless"), *reckless]) in (0, 2)
    assert "health at step 10: head: one step changes its weights by" in capsys.readouterr().out


def test_a_profile_says_where_the_time_goes(
    digits: ModuleType, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    assert digits.main([str(run), "steps=30", "profile.steps=10:17"]) == 0
    (line,) = [line for line in lines(run) if "profile/data" in line]
    assert line["step"] == 20
    parts = ("data", "forward", "backward", "optimizer", "other")
    assert sum(line[f"profile/{part}"] for part in parts) == pytest.approx(1)
    assert line["profile/flops_per_second"] > 0
    trace = run / "profile/steps-14-17.json"
    assert f"trace in {trace}" in capsys.readouterr().out
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"step 14", "forward", "backward", "optimizer", "data"} <= names

    assert digits.main([str(tmp_path / "plain"), "steps=30"]) == 0
    expected = checkpoint(tmp_path / "plain", "model")
    assert all(torch.equal(v, expected[n]) for n, v in checkpoint(run, "model").items())


def test_trackers_get_what_the_log_gets(digits: ModuleType, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    run_in_two_parts(digits, run, "steps=40")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expected = [(line["step"], line["loss"]) for line in lines(run)]
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in expected]
    shown = events.Images("previews/digits")
    files = sorted((run / "previews").glob("digits-*.png"))
    assert [f"digits-{picture.step:08d}.png" for picture in shown] == [f.name for f in files[-4:]]
    with Image.open(files[-1]) as saved, Image.open(BytesIO(shown[-1].encoded_image_string)) as tb:
        assert np.array_equal(np.asarray(saved.convert("RGB")), np.asarray(tb.convert("RGB")))
    assert not list((tmp_path / "none").glob("*"))
    assert digits.main([str(tmp_path / "none"), "steps=3", "log.trackers=[]"]) == 0
    assert not (tmp_path / "none/tensorboard").exists()
