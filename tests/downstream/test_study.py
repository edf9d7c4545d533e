"""Whole studies as a user runs them: processes, kills, stops, and what they leave behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data.pack import pack
from data.store import open_store
from downstream.__main__ import main
from downstream.arms import USUAL_ARMS
from downstream.results import Row, read_rows

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "downstream", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def wait_for_rows(path: Path, count: int) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {count} rows")


def values(rows: list[Row]) -> dict:
    """Everything but the seconds, by key; each key once."""
    found = {row.key: (row.accuracy, row.macro_f1, row.nll, row.choices) for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(scope="module")
def uninterrupted(digits, encoders, tmp_path_factory):
    """The config of a study with two encoders, its folder and what it printed."""
    import yaml

    runs = tmp_path_factory.mktemp("runs")
    config = runs / "study.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "name": "whole",
                "runs_dir": str(runs),
                "encoder": [str(path) for path in encoders],
                "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
                "budgets": [20, 60],
                "draws": 2,
                "features": {"grid": 2},
                "head": {"kind": "softmax", "steps": 40},
                "scratch": {"recipe": {"steps": 15}, "draws_from": {60: 1}},
                "finetune": {"recipe": {"steps": 15, "head_steps": 5}},
                "workers": 2,
            }
        )
    )
    return config, runs / "whole", finish(start("curve", config))


def test_a_study_leaves_rows_summary_and_report(uninterrupted):
    _, folder, out = uninterrupted
    rows = read_rows(folder / "results.jsonl", Row)
    counts = {arm: sum(row.arm == arm for row in rows) for arm in {row.arm for row in rows}}
    # budgets x draws x seeds; scratch has one draw from 60 labels on
    assert counts == {
        "frozen": 8,
        "finetuned": 8,
        "random_frozen": 8,
        "scratch": 3,
        "raw_logistic": 4,
    }
    assert {row.seed for row in rows if row.arm in ("frozen", "finetuned")} == {3, 4}
    assert all(row.labels_used == row.budget for row in rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rows"] == {"done": 31, "planned": 31}
    assert summary["arms"]["frozen"]["60"].keys() >= {"mean", "low", "high", "n"}
    assert summary["arms"]["frozen"]["60"]["seeds"] == 2
    assert summary["arms"]["scratch"]["60"]["n"] == 1
    assert any("scratch was run on 1 draws only" in note for note in summary["notes"])
    assert summary["verdict"] in out
    assert "report.html" in out
    assert (folder / "report.html").stat().st_size > 1000


def test_a_dry_run_says_what_is_missing_and_writes_no_row(study, tmp_path, capsys):
    path = study(arms=["frozen", "scratch"], workers=1)
    assert main(["curve", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "frozen: 4 rows" in said and "scratch: 4 rows" in said and "in all: 8 rows" in said
    assert not (tmp_path / "runs/study").exists()
    assert main(["curve", str(path)]) == 0
    capsys.readouterr()
    assert main(["curve", str(path), "--dry-run"]) == 0
    assert "8 rows are there already" in (said := capsys.readouterr().out)
    assert "in all: 0 rows" in said


def test_a_killed_study_goes_on_and_ends_as_an_uninterrupted_one(uninterrupted, capsys):
    config, folder, _ = uninterrupted
    killed = folder.with_name("killed")
    rows_file = killed / "results.jsonl"
    process = start("curve", config, "name=killed")
    wait_for_rows(rows_file, 23)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = len(read_rows(rows_file, Row))
    assert 20 <= done < 31
    # As if the last kill had struck in the middle of a line, and an earlier one within the heads.
    lines = rows_file.read_text().splitlines(keepends=True)
    rows_file.write_text("".join(lines[1:]) + lines[0][:40])
    finish(start("curve", config, "name=killed", "--resume"))
    assert values(read_rows(rows_file, Row)) == values(read_rows(folder / "results.jsonl", Row))
    assert main(["curve", str(config), "name=killed"]) == 0
    assert "0 to compute" in capsys.readouterr().out


@pytest.mark.slow
def test_twenty_kills_at_any_moment_change_no_row(uninterrupted):
    config, folder, _ = uninterrupted
    killed = folder.with_name("killed-often")
    moments = random.Random(0)
    for _ in range(20):
        process = start("curve", config, "name=killed-often")
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(1, 12))
        with suppress(ProcessLookupError):  # it may have ended before
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start("curve", config, "name=killed-often"))
    found = values(read_rows(killed / "results.jsonl", Row))
    assert found == values(read_rows(folder / "results.jsonl", Row))


def test_no_choice_is_made_by_the_test_labels(study, digits, tmp_path):
    """With other labels on the test images only scores differ."""
    store = {name: open_store(f"{digits}/{name}-*.tar") for name in ("train", "test")}
    wrong = (store["test"].labels + 3) % 10
    np.savez(
        tmp_path / "wrong.npz",
        x_train=store["train"].images[:, 0].numpy(),
        y_train=store["train"].labels.numpy(),
        x_test=store["test"].images[:, 0].numpy(),
        y_test=wrong.numpy(),
    )
    pack(str(tmp_path / "wrong.npz"), tmp_path / "wrong")
    trials = {"trials": [{}, {"lr": 0.03}], "validation_labels": 20, "recipe": {"steps": 6}}
    rows = []
    for name, folder in (("right", digits), ("wrong", tmp_path / "wrong")):
        data = {split: f"{folder}/{split}-*.tar" for split in ("train", "test")}
        changes = {"name": name, "data": data, "scratch": trials, "finetune": trials}
        assert main(["curve", str(study(**changes, budgets=[40], draws=1, workers=1))]) == 0
        found = read_rows(tmp_path / "runs" / name / "results.jsonl", Row)
        rows.append({row.key: row for row in found})
    right, wrong_rows = rows
    assert {key.arm for key in right} == set(USUAL_ARMS)
    for key, row in right.items():
        assert row.choices == wrong_rows[key].choices
        assert row.accuracy != wrong_rows[key].accuracy


@pytest.mark.slow
def test_targets_may_be_asked_for_when_the_rows_are_there(uninterrupted, capsys):
    config, folder, _ = uninterrupted
    before = values(read_rows(folder / "results.jsonl", Row))
    assert main(["curve", str(config), "targets=[0.4,0.99]"]) == 0
    assert "0 to compute" in capsys.readouterr().out
    assert values(read_rows(folder / "results.jsonl", Row)) == before
    found = json.loads((folder / "summary.json").read_text())["labels_to_target"]
    assert {entry["target"] for entry in found} == {0.4, 0.99}
    assert {entry["flag"] for entry in found if entry["target"] == 0.99} == {"never_reached"}
    assert "Labels for an accuracy" in (folder / "report.html").read_text()
    assert main(["curve", str(config), "draws=3"]) == 2  # what changes rows is refused as before


@pytest.mark.slow
def test_a_stopped_study_ends_well_and_says_how_to_go_on(uninterrupted, capsys):
    config, folder, _ = uninterrupted
    stopped = folder.with_name("stopped")
    process = start("curve", config, "name=stopped", "draws=3")
    wait_for_rows(stopped / "results.jsonl", 31)
    process.send_signal(signal.SIGTERM)
    out = finish(process)
    assert f"python -m downstream curve {config} name=stopped draws=3" in out
    assert not (stopped / "summary.json").exists()
    assert main(["report", str(stopped)]) == 0
    assert "report.html" in capsys.readouterr().out
    verdict = json.loads((stopped / "summary.json").read_text())["verdict"]
    assert verdict.startswith("Unfinished, ")


@pytest.mark.slow
def test_a_transductive_head_says_so_wherever_its_numbers_are(study, tmp_path, capsys):
    """All arms with a head on a graph; what it is stands in rows, table, verdict and report."""
    path = study(
        head={"kind": "label_propagation"},
        arms=["frozen", "random_frozen", "raw_logistic", "scratch"],
        budgets=[20],
    )
    assert main(["curve", str(path)]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "study"
    words = {(row.arm, row.inference) for row in read_rows(folder / "results.jsonl", Row)}
    seen = ("frozen", "random_frozen", "raw_logistic")
    assert words == {*((arm, "transductive") for arm in seen), ("scratch", "inductive")}
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["inference"].items()) == words
    assert "without labels: frozen, random_frozen and raw_logistic." in summary["verdict"]
    assert "frozen, transductive" in said and "scratch, inductive" in said
    page = (folder / "report.html").read_text()
    assert "pretrained, frozen, transductive" in page
    assert "Transductive: the head has seen the test images, without labels." in page
    assert "from scratch, transductive" not in page
    graphs = list((tmp_path / "runs/.cache/features").glob("*.npz"))
    assert len(graphs) == 3
    made = [file.stat().st_mtime_ns for file in graphs]
    assert main(["curve", str(path), "name=again", "arms=[frozen, random_frozen]"]) == 0
    assert [file.stat().st_mtime_ns for file in graphs] == made
