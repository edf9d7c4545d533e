"""`python -m training schedule`: what it says is what a run then does."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from pretrain.__main__ import main as pretrain
from training.__main__ import main

STEP = re.compile(r"step +([\d,]+): (\S+)")


def told_rates(text: str) -> dict[int, float]:
    return {int(step.replace(",", "")): float(rate) for step, rate in STEP.findall(text)}


def test_the_drawn_schedule_is_the_one_that_a_run_logs(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["schedule.kind=one_cycle", "optimizer.lr=0.02"]
    assert main(["schedule", str(config), "steps=30", "--out", "lr.png", *overrides]) == 0
    told = told_rates(capsys.readouterr().out)
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.width > 1000
    assert not (tmp_path / "runs").exists()

    assert pretrain([str(config), "steps=30", *overrides]) == 0
    log = (tmp_path / "runs" / "digits" / "log.jsonl").read_text().splitlines()
    logged = {line["step"]: line["lr"] for line in map(json.loads, log)}
    assert {1, 30} < told.keys()
    assert max(told.values()) == pytest.approx(max(logged.values()), rel=0.01)
    for step, rate in told.items():
        assert rate == pytest.approx(logged[step], rel=0.01)


@pytest.mark.parametrize("kind", ["constant", "plateau", "cosine_restarts", "piecewise"])
@pytest.mark.parametrize("steps", [1, 3, 100_000])
def test_any_schedule_of_any_length_is_drawn(
    kind: str, steps: int, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lr.png"
    arguments = [f"schedule.kind={kind}", f"steps={steps}", "--out", str(out)]
    assert main(["schedule", str(config), *arguments]) == 0
    assert out.stat().st_size > 1000
    assert max(told_rates(capsys.readouterr().out)) == steps


def test_epochs_are_counted_on_the_images(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["steps=null", "epochs=2", "--out", str(tmp_path / "lr.png")]
    assert main(["schedule", str(config), *arguments]) == 0
    assert max(told_rates(capsys.readouterr().out)) == 19  # 600 images in batches of 32


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("schedule.warmup=12", ["schedule.warmup", "12 steps"]),
        ("schedule.kind=cosin", ["schedule.kind", "cosine"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    override: str,
    words: list[str],
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "lr.png"
    assert main(["schedule", str(config), override, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
    assert not out.exists()
