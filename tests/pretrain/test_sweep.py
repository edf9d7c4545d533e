"""`python -m pretrain sweep`: every combination runs, and the page ranks them."""

import json
from pathlib import Path

import pytest
import yaml

from pretrain.__main__ import main
from pretrain.sweep import plan_sweep, rank_sweep
from tests.html_pages import Page
from tests.pretrain.test_command_line import assert_one_line
from tests.processes import run_module
from training.comparison_page import render_page
from training.errors import InputError


@pytest.mark.slow
def test_a_grid_runs_and_is_ranked(
    config: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "sweep", str(config), "optimizer.lr=[1e-5, 0.01, 1e30]", "encoder.widths=[[4, 8]]",
        "data.held_out=0.1", "optimizer.kind=sgd", "clip.kind=none",
        f"probe.shards={shards}/train-*.tar", "probe.labels=100", "--jobs", "2",
    ]  # fmt: skip
    done = run_module("pretrain", *arguments, cwd=tmp_path, status=1)
    folder = tmp_path / "runs/digits-sweep"
    names = ["lr-1e-05_widths-4-8", "lr-0.01_widths-4-8", "lr-1e30_widths-4-8"]
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(names)
    slow = yaml.safe_load((folder / names[0] / "config.yaml").read_text())
    assert slow["optimizer"]["lr"] == 1e-5 and slow["encoder"]["widths"] == [4, 8]
    losses = {
        name: json.loads((folder / name / "log.jsonl").read_text().splitlines()[-1])
        for name in names[:2]
    }
    assert losses[names[1]]["held_out/loss"] < losses[names[0]]["held_out/loss"]
    ranks = [line for line in done.stdout.splitlines() if line[:2] in ("1.", "2.", "3.")]
    assert [line.split()[1].rstrip(":") for line in ranks] == [names[1], names[0], names[2]]
    assert "held_out/loss" in ranks[0] and ranks[2].endswith("diverged")
    assert f"failed: {names[2]};" in done.stderr

    page = Page((tmp_path / "sweep.html").read_text())
    assert any(f"{names[1]} ends lowest" in text for text in page.texts["p"])
    assert "held_out/loss" in page.texts["title"][0]

    monkeypatch.chdir(tmp_path)
    ranked = rank_sweep(plan_sweep(str(config), arguments[2:9], metric="loss"))
    assert ranked.metric == "loss" and ranked.entries[0].label == names[1] and not ranked.note
    ranked = rank_sweep(plan_sweep(str(config), arguments[2:9], metric="probe_accuracy"))
    assert "its labels count" in render_page(ranked)


def test_combinations_get_names_of_their_own(config: Path) -> None:
    arguments = ["data.held_out=0.1", "optimizer.weight_decay=[0, 1]", "seed=[0, 1, 2]"]
    sweep = plan_sweep(str(config), arguments, metric=None)
    assert list(sweep.race.variants) == [
        f"weight_decay-{decay}_seed-{seed}" for decay in (0, 1) for seed in (0, 1, 2)
    ]
    assert (sweep.metric, sweep.mode) == ("held_out/loss", "min")
    twins = ["encoder.norm=[batch, group]", "objective.corruption.kind=['none', 'gaussian']"]
    twins += [f"probe.shards={config}", f"runs_dir={'x' * 5}"]
    sweep = plan_sweep(str(config), twins, metric=None)
    assert "norm-batch_kind-gaussian" in sweep.race.variants
    assert (sweep.metric, sweep.mode) == ("probe_accuracy", "max")
    assert sweep.race.runs_dir == "xxxxx/digits-sweep"
    long = [f"data.shards=[{'a' * 200}, {'a' * 201}]", "data.held_out=0.1"]
    variants = plan_sweep(str(config), long, metric=None).race.variants
    assert len(variants) == 2 and all(len(name) <= 80 for name in variants)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["steps=3"], ["no values to choose from", "key=[value, ...]"]),
        (["steps=[3, 4]"], ["neither data.held_out nor probe.shards", "--metric"]),
        (["seed=[1, 1]", "data.held_out=0.1"], ["seed=1 twice"]),
        (["seed=[]"], ["seed", "no value"]),
        (["seed=[1, -1]", "data.held_out=0.1"], ["run seed--1", "seed"]),
        (["stepz=[1, 2]", "data.held_out=0.1"], ["stepz"]),
        (["steps"], ["key=value"]),
    ],
)
def test_bad_sweeps_are_refused_before_the_first_run(
    arguments: list[str],
    words: list[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", str(config), *arguments]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()


def test_a_metric_that_no_run_logs_is_told(config: Path) -> None:
    with pytest.raises(InputError, match="no run of this sweep has begun"):
        rank_sweep(plan_sweep(str(config), ["seed=[0]"], metric="loss"))
