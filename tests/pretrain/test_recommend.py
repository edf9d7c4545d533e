"""Presets compared by short runs: scores, rounds, certainty, and that a kill costs one run."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pretrain.__main__ import main
from pretrain.label_free_scores import (
    LabelFreeScores,
    alignment,
    mean_ranks,
    rank_me,
    uniformity,
    variance_decay,
)
from pretrain.recommend import best_first, make_plan, round_sizes
from pretrain.recommendation import ranking_table, recommendation
from pretrain.short_run import ShortRun
from tests.pretrain.test_command_line import assert_one_line
from tests.processes import environment, run_module


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_the_scores_of_features_that_are_known() -> None:
    orthogonal, _ = torch.linalg.qr(drawn(50, 6, seed=0))
    assert rank_me(orthogonal) == pytest.approx(6)
    assert rank_me(drawn(50, 1, seed=1) @ drawn(1, 9, seed=2)) == pytest.approx(1)
    directions, _ = torch.linalg.qr(drawn(400, 60, seed=3) - drawn(400, 60, seed=3).mean(0))
    for alpha in (0.5, 1.0, 2.0):
        spread = torch.arange(1, 61).double() ** (-alpha / 2)
        rows = (directions - directions.mean(0)) * spread
        assert variance_decay(rows) == pytest.approx(alpha, abs=0.15)
    rows = drawn(200, 3, seed=4)
    assert alignment(rows, 5 * rows) == pytest.approx(0)
    assert alignment(rows, -rows) == pytest.approx(4)
    line = torch.stack([torch.linspace(0.1, 1, 50), torch.zeros(50)], 1)
    assert uniformity(line) == pytest.approx(0, abs=1e-6)
    assert uniformity(rows) < -1


def test_places_of_scores_and_how_far_they_agree() -> None:
    better = LabelFreeScores(rank=30, decay=1.0, alignment=0.2, uniformity=-3)
    middle = LabelFreeScores(rank=20, decay=1.5, alignment=0.4, uniformity=-2)
    worse = LabelFreeScores(rank=10, decay=0.2, alignment=0.9, uniformity=-1)
    assert mean_ranks([worse, better, middle]) == ([3, 1, 2], pytest.approx(1))
    torn = [
        LabelFreeScores(rank=3, decay=1.2, alignment=0, uniformity=-1),
        LabelFreeScores(rank=2, decay=1.1, alignment=0, uniformity=-2),
        LabelFreeScores(rank=1, decay=1.0, alignment=0, uniformity=-1.5),
    ]
    _, concordance = mean_ranks(torn)
    assert concordance == pytest.approx(12 * 2 / (9 * 24))  # rank sums 7, 5, 6


def test_halving_keeps_the_better_half_down_to_two() -> None:
    assert round_sizes(8) == [8, 4, 2]
    assert round_sizes(5) == [5, 3, 2]
    assert round_sizes(2) == [2]


def a_run(preset: str, number: int, right: str | None, rank: float = 1.0) -> ShortRun:
    scores = {"rank": rank, "decay": 1.0, "alignment": 0.1, "uniformity": -1.0}
    return ShortRun(preset=preset, round=number, steps=900, seconds=1, hits=right, **scores)


def test_certainty_is_that_of_paired_differences(config: Path, shards: Path) -> None:
    other = config.with_name("other.yaml")
    other.write_text(config.read_text())
    pattern = str(shards / "train-*.tar")
    plan = make_plan(pattern, [str(config), str(other)], [], seconds=10, labels=pattern, count=100)
    clear = [a_run("digits", 0, "1" * 80 + "0" * 20), a_run("other", 0, "1" * 60 + "0" * 40)]
    found = recommendation(plan, clear)
    assert [one.preset for one in found.ranking] == ["digits", "other"]
    behind = found.ranking[1]
    gaps = np.repeat([0.0, 1.0, 0.0], [60, 20, 20])
    assert behind.behind is not None and behind.behind.value == pytest.approx(0.2)
    assert behind.behind.error == pytest.approx(gaps.std(ddof=1) / 10)
    assert behind.behind.measurable and found.certainty.startswith("Certain enough")
    assert "100 labels have chosen: they count" in found.certainty
    assert "80.0 ± 4.0" in ranking_table(found)
    assert str(config) in found.command and pattern in found.command

    close = [a_run("digits", 0, "1" * 51 + "0" * 49), a_run("other", 0, "0" * 50 + "1" * 50)]
    found = recommendation(plan, close)
    assert found.certainty.startswith("Not certain: digits is ahead of other by 1.0 ± ")
    by_scores = [close[0], close[1].model_copy(update={"rank": 9.0})]
    found = recommendation(plan, by_scores)
    assert [one.preset for one in found.ranking] == ["other", "digits"]
    assert found.certainty.startswith("Not certain: other is behind digits by 1.0 ± ")
    assert [run.preset for run in best_first([*clear, a_run("third", 0, "0" * 100, 9.0)], 0)] == [
        "digits",
        "other",
        "third",
    ]

    hurried = [close[0], close[1].model_copy(update={"steps": 5})]
    assert "5 steps alone of other: give a larger" in recommendation(plan, hurried).certainty
    assert "larger --budget." not in found.certainty

    without = make_plan(pattern, [str(config), str(other)], [], seconds=10, labels=None, count=None)
    runs = [a_run("digits", 0, None, rank=2.0), a_run("other", 0, None, rank=9.0)]
    assert [run.preset for run in best_first(runs, 0)] == ["other", "digits"]
    found = recommendation(without, runs)
    assert found.ranking[0].preset == "other" and "Without labels this is a hint" in found.certainty


def presets(config: Path) -> list[str]:
    """Three presets: one that learns, one that hardly does, one that does not fit the images."""
    values = yaml.safe_load(config.read_text()) | {"steps": 3000}
    paths = []
    for name, changes in {
        "learns": {},
        "idle": {
            "optimizer": {"kind": "sgd", "lr": 1e-9},
            "encoder": {"kind": "conv", "widths": [2]},
        },
        "misfit": {"encoder": {"kind": "vit", "patch_size": 5}},
    }.items():
        path = config.with_name(f"{name}.yaml")
        path.write_text(yaml.safe_dump({**values, **changes, "name": name}))
        paths.append(str(path))
    return paths


def of_presets(config: Path, shards: Path, budget: float) -> list[str]:
    pattern = f"{shards}/train-*.tar"
    command = ["recommend", pattern, "--labels", pattern, "--count", "150", "--out", "found"]
    return [*command, "--budget", str(budget), "--presets", ",".join(presets(config))]


def test_short_runs_recommend_what_learns(
    config: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = of_presets(config, shards, 6)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "misfit: left out" in said and "left out: misfit: " in said
    record = json.loads((tmp_path / "found/recommend.json").read_text())
    assert [(run["preset"], run["round"]) for run in record["runs"]] == [
        ("learns", 0), ("idle", 0), ("misfit", 0), ("learns", 1), ("idle", 1),
    ]  # fmt: skip
    assert [one["preset"] for one in record["ranking"]] == ["learns", "idle"]
    assert record["runs"][3]["steps"] >= 5
    assert f"next: python -m pretrain {config.with_name('learns.yaml')}" in said

    # As a kill in the second round leaves it.
    killed = {"plan": record["plan"], "runs": record["runs"][:4]}
    (tmp_path / "found/recommend.json").write_text(json.dumps(killed))
    assert main(command) == 0
    again = capsys.readouterr().out
    assert again.startswith("round 2 of 2, 2 of 2: idle: ")
    assert json.loads((tmp_path / "found/recommend.json").read_text())["runs"][:4] == killed["runs"]
    assert again.splitlines()[-1] == said.splitlines()[-1]

    assert main([*command, "seed=3"]) == 2
    assert_one_line(capsys.readouterr().err, "found/recommend.json", "another --out")


@pytest.mark.slow
def test_a_kill_loses_one_run(config: Path, shards: Path, tmp_path: Path) -> None:
    command = of_presets(config, shards, 9)
    process = subprocess.Popen(
        [sys.executable, "-m", "pretrain", *command],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.startswith("round 1 of 2, 1 of 3: learns: ")
    kept = json.loads((tmp_path / "found/recommend.json").read_text())["runs"]
    done = run_module("pretrain", *command, cwd=tmp_path)
    assert done.stdout.startswith("round 1 of 2, 2 of 3: idle: ")
    assert json.loads((tmp_path / "found/recommend.json").read_text())["runs"][:1] == kept[:1]


def test_runs_on_other_images_of_the_same_name_are_not_taken(
    config: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(shards, tmp_path / "copy")
    command = of_presets(config, copy, 6)
    assert main(command) == 0
    (copy / "train-000001.tar").unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert_one_line(capsys.readouterr().err, "recommend.json", "other presets, images")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--presets", "nowhere,plain"], ["--presets", "nowhere", "configs/pretrain/nowhere.yaml"]),
        (["--presets", "digits.yaml"], ["--presets", "two or more"]),
        (["--presets", "digits.yaml,digits.yaml"], ["--presets", "twice"]),
        (["--presets", "digits.yaml,b.yaml", "--budget", "1"], ["--budget", "1 seconds", "2"]),
        (["--presets", "digits.yaml,b.yaml", "--count", "50"], ["--count", "--labels"]),
        (["--presets", "digits.yaml,b.yaml", "--budget", "inf"], ["--budget", "inf"]),
        (["--presets", "digits.yaml,b.yaml", "--count", "0"], ["--count", "0"]),
        (["--presets", "digits.yaml,b.yaml", "stepz=3"], ["stepz"]),
        (
            ["--presets", "digits.yaml,b.yaml", "--labels", "SHARDS", "--count", "5"],
            ["--count", "5", "30 to 300", "10 classes"],
        ),
    ],
)
def test_bad_comparisons_are_refused(
    arguments: list[str],
    words: list[str],
    config: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.yaml").write_text(config.read_text())
    pattern = f"{shards}/train-*.tar"
    own = [pattern if text == "SHARDS" else text for text in arguments]
    assert main(["recommend", pattern, *own]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()
