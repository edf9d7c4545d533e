"""Races of variants, as processes that fail, are stopped and go on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.processes import environment, run_module
from training.__main__ import main
from training.race import RaceConfig

Race = tuple[Path, subprocess.CompletedProcess[str]]


def logged_steps(run: Path) -> list[int]:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


@pytest.mark.slow
def test_a_variant_that_fails_does_not_stop_the_others(race: Race) -> None:
    folder, done = race
    for name in ("adam", "slow"):
        assert logged_steps(folder / "runs" / name) == list(range(1, 21))
        assert f"{name}: finished after 20 steps" in done.stdout
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("hopeless: failed")]
    assert "exit status 2" in told and "the loss is" in told
    assert "failed: hopeless;" in done.stderr
    config = yaml.safe_load((folder / "runs" / "slow" / "config.yaml").read_text())
    assert config["optimizer"]["kind"] == "sgd"
    assert config["optimizer"]["lr"] == 1e-4


@pytest.mark.slow
def test_stopped_races_go_on_where_they_were(config: Path, tmp_path: Path) -> None:
    study = {
        "base": config.name,
        "runs_dir": "runs",
        "overrides": ["steps=150", "checkpoint.every=150"],
        "variants": {"first": ["optimizer.kind=sgd"], "second": []},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "training", "race", "study.yaml", "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    runs = [tmp_path / "runs" / name for name in ("first", "second")]
    while not all(logged_steps(run) for run in runs):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "to go on: python -m training race study.yaml" in output
    assert output.count("the same race goes on with it") == 2
    for run in runs:
        reached = logged_steps(run)[-1]
        assert reached < 150, "the run was over before it was stopped"
        assert (run / "checkpoints" / f"step-{reached:08d}").is_dir()

    done = run_module("training", "race", "study.yaml", "--jobs", 2, cwd=tmp_path)
    assert "failed" not in done.stdout
    for run in runs:
        assert logged_steps(run) == list(range(1, 151))
        assert len(json.loads((run / "environment.json").read_text())["resumed"]) == 1


def test_seeds_multiply_the_variants() -> None:
    variants = {"a": ["optimizer.lr=1"], "b": []}
    race = RaceConfig.model_validate(
        {"base": "x.yaml", "runs_dir": "r", "variants": variants, "seeds": [3, 4]}
    )
    runs = race.runs()
    assert list(runs) == ["a-seed3", "a-seed4", "b-seed3", "b-seed4"]
    assert runs["a-seed4"] == ["optimizer.lr=1", "seed=4", "name=a-seed4", "runs_dir=r"]


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"variant": {}}, [], ["study.yaml", "variant", "variants"]),
        ({"variants": {}}, [], ["variants"]),
        ({"variants": {"a/b": []}}, [], ["a/b", "letters"]),
        ({"variants": {"a": ["optimizer.kind=sdg"]}}, [], ["run a", "optimizer.kind", "sgd"]),
        ({"base": "nowhere.yaml"}, [], ["nowhere.yaml", "no such config"]),
        ({}, ["--jobs", "0"], ["--jobs", "0"]),
        ({}, ["seeds=[-1]"], ["seeds", "-1"]),
    ],
)
def test_bad_studies_are_told_in_one_line_before_anything_runs(
    changes: dict[str, object],
    arguments: list[str],
    words: list[str],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config.parent)
    study = {"base": config.name, "runs_dir": "runs", "variants": {"a": []}, **changes}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert main(["race", "study.yaml", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
    assert not Path("runs").exists()
