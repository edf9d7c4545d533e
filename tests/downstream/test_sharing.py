"""Studies whose rows several processes compute: ranks of torchrun, shards, kills and stops."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from downstream.__main__ import main
from downstream.results import PARTS, Row, read_rows
from downstream.shards import Shard, deal
from tests.processes import environment, free_port, run_module, run_on_ranks


@pytest.fixture(scope="module")
def whole(
    digits: Path, encoders: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Row]]:
    """A study's config, and its rows as one process computes them, as `whole` beside the others."""
    runs = tmp_path_factory.mktemp("runs")
    config = runs / "study.yaml"
    values = {
        "name": "whole",
        "runs_dir": str(runs),
        "encoder": str(encoders[0]),
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budgets": [20, 60],
        "draws": 6,
        "arms": ["frozen", "random_frozen", "scratch", "raw_logistic"],
        "features": {"grid": 2},
        "head": {"kind": "softmax", "steps": 40},
        "scratch": {"recipe": {"steps": 30}},
        "workers": 1,
    }
    config.write_text(yaml.safe_dump(values))
    run_module("downstream", "curve", config)
    return config, read_rows(runs / "whole/results.jsonl", Row)


def in_file(folder: Path) -> list[dict]:
    """The rows of results.jsonl alone, without what took how long."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def assert_whole(folder: Path, rows: list[Row]) -> None:
    """A folder holds the rows that one process computes, each once, in its own file."""
    found = in_file(folder)
    key = ("arm", "budget", "draw", "seed")
    by_key = {tuple(row[name] for name in key): row for row in found}
    assert len(by_key) == len(found)
    assert by_key == {tuple(row.key): {**vars(row), "seconds": 0} for row in rows}
    assert not list(folder.glob(PARTS))
    assert (folder / "report.html").exists()


def start_ranks(ranks: int, *arguments: object) -> subprocess.Popen[str]:
    launcher = ["torch.distributed.run", f"--nproc_per_node={ranks}"]
    launcher += ["--master_addr=127.0.0.1", f"--master_port={free_port()}", "-m", "downstream"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def rows_in_parts(folder: Path) -> list[int]:
    return [part.read_bytes().count(b"\n") for part in folder.glob(PARTS)]


def process_of_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    for child in psutil.Process(launcher.pid).children():
        # Its environment as it was started with: it takes the variables out itself.
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError(f"rank {rank} is not running")


@pytest.mark.slow
def test_two_ranks_compute_what_one_process_does(whole: tuple[Path, list[Row]]) -> None:
    config, rows = whole
    done = run_on_ranks(2, "downstream", "curve", config, "name=ranks")
    assert_whole(config.parent / "ranks", rows)
    counts = [
        int(line.split()[-3]) for line in done.stdout.splitlines() if line.endswith("to compute")
    ]
    assert len(counts) == 2 and min(counts) > 0 and sum(counts) == len(rows)
    assert done.stdout.count("report: ") == 1
    # In the order of the plan: heads, small budgets first, before the classifiers.
    found = in_file(config.parent / "ranks")
    assert [row["budget"] for row in found if row["arm"] == "frozen"] == [20] * 6 + [60] * 6
    assert {row["arm"] for row in found[-12:]} == {"scratch"}


# The launcher gives the others half a minute to stop, which a loaded machine may not suffice for.
@pytest.mark.slow
def test_a_killed_rank_loses_no_row_and_another_number_of_ranks_goes_on(
    whole: tuple[Path, list[Row]],
) -> None:
    config, rows = whole
    folder = config.parent / "killed"
    process = start_ranks(2, "curve", config, "name=killed")
    wait_until(lambda: len(rows_in_parts(folder)) == 2 and min(rows_in_parts(folder)) >= 1)
    os.kill(process_of_rank(process, 1), signal.SIGKILL)
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    assert f"python -m downstream curve {config} name=killed" in out
    before = {row.key: row for row in read_rows(folder / "results.jsonl", Row)}
    assert 2 <= len(before) < len(rows)
    # As if a kill had struck in the middle of a line.
    cut = folder / PARTS.replace("*", "cut")
    cut.write_text((folder.with_name("whole") / "results.jsonl").read_text()[:-30])
    cut.write_text(cut.read_text().splitlines()[-1])
    run_on_ranks(3, "downstream", "curve", config, "name=killed")
    assert_whole(folder, rows)
    after = {row.key: row for row in read_rows(folder / "results.jsonl", Row)}
    assert all(after[key].seconds == row.seconds for key, row in before.items())


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_and_they_say_how_to_go_on(
    whole: tuple[Path, list[Row]],
) -> None:
    config, rows = whole
    folder = config.parent / "stopped"
    process = start_ranks(2, "curve", config, "name=stopped")
    wait_until(lambda: len(rows_in_parts(folder)) == 2 and min(rows_in_parts(folder)) >= 1)
    os.kill(process_of_rank(process, 1), signal.SIGTERM)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert out.count(f"to go on: python -m downstream curve {config} name=stopped") == 1
    assert len(in_file(folder)) < len(rows) and not (folder / "report.html").exists()
    assert main(["curve", str(config), "name=stopped"]) == 0
    assert_whole(folder, rows)


@pytest.mark.slow
def test_shards_that_never_meet_are_merged_by_the_plain_command(
    whole: tuple[Path, list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, rows = whole
    folder = config.parent / "shards"
    curve = ["curve", str(config), "name=shards"]
    assert main([*curve, "--shard", "0/2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no study has begun" in line and "--slurm" in line and not folder.exists()
    # What --slurm begins before it hands the array over.
    assert main([*curve, "--slurm", "2", "--script", str(config.parent / "no.sbatch")]) == 2
    assert "no.sbatch" in capsys.readouterr().err
    shards = [
        subprocess.Popen(
            [sys.executable, "-m", "downstream", *curve, "--shard", f"{index}/2"],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    wait_until(lambda: len(rows_in_parts(folder)) == 2)
    shards[0].send_signal(signal.SIGTERM)
    outs = [shard.communicate(timeout=90)[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [75, 0]
    assert "shard 1/2 is done" in outs[1]
    # Requeued, it goes on with what it has not written; its rows are seen before they are merged.
    kept = len(read_rows(folder / "results.jsonl", Row))
    run_module("downstream", *curve, "--shard", "0/2")
    assert len(rows_in_parts(folder)) == 3 and kept < sum(rows_in_parts(folder)) == len(rows)
    assert main([*curve, "--dry-run"]) == 0
    assert f"{len(rows)} rows are there already" in capsys.readouterr().out
    assert main(curve) == 0
    assert "0 to compute" in capsys.readouterr().out
    assert_whole(folder, rows)


@pytest.mark.slow
def test_a_shard_of_another_config_is_refused_and_overwriting_removes_parts(
    whole: tuple[Path, list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, rows = whole
    folder = config.parent / "other"
    curve = ["curve", str(config), "name=other", "arms=[raw_logistic]"]
    assert main(curve) == 0
    lost = folder / PARTS.replace("*", "lost")
    lost.write_text((folder / "results.jsonl").read_text().replace('"draw": 0', '"draw": 77'))
    for arguments, words in (
        ([*curve, "draws=7", "--shard", "0/2"], ["draws", "7"]),
        ([*curve, "--shard", "2/2"], ["--shard", "2/2"]),
        ([*curve, "--shard", "0/2", "--overwrite"], ["--overwrite", "--shard"]),
        ([*curve, "--slurm", "0"], ["--slurm", "0"]),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(word in line for word in words)
    assert any(row.draw == 77 for row in read_rows(folder / "results.jsonl", Row))
    assert main([*curve, "--overwrite"]) == 0
    raw = [row for row in rows if row.arm == "raw_logistic"]
    assert_whole(folder, raw)


@pytest.mark.slow
def test_ranks_pretrain_once_and_share_every_curve(
    digits: Path, encoders: list[Path], tmp_path: Path
) -> None:
    data = {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"}
    pretraining = {
        "name": "tiny",
        "data": {"shards": data["train"]},
        "steps": 3,
        "batch_size": 16,
        "encoder": {"kind": "conv", "widths": [4, 8]},
        "objective": {"kind": "autoencoder"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(pretraining))
    values = {
        "name": "study",
        "runs_dir": str(tmp_path),
        "encoders": {
            "given": str(encoders[0]),
            "made": {"pretrain": str(tmp_path / "tiny.yaml"), "seeds": [0]},
        },
        "data": data,
        "budgets": [20, 60],
        "draws": 2,
        "features": {"grid": 2},
        "head": {"kind": "ridge"},
        "arms": ["frozen", "random_frozen", "raw_logistic"],
    }
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(values))
    done = run_on_ranks(2, "downstream", "study", config)
    assert done.stdout.count("report: ") == 1
    run_module("downstream", "study", config, "name=alone")
    for label in ("given", "made"):
        ranks, alone = (
            {(row["arm"], row["budget"], row["draw"]): row for row in in_file(folder)}
            for folder in (tmp_path / f"study/curves/{label}", tmp_path / f"alone/curves/{label}")
        )
        assert ranks == alone
    found = json.loads((tmp_path / "study/comparison.json").read_text())
    assert found["series"] == json.loads((tmp_path / "alone/comparison.json").read_text())["series"]


def test_every_group_is_dealt_once_and_loads_are_even() -> None:
    costs = [7, 1, 1, 5, 3, 3, 9, 2, 2, 4, 40, 6]
    groups = list(range(len(costs)))
    shards = [deal(groups, costs.__getitem__, Shard(index, 3)) for index in range(3)]
    assert sorted(group for shard in shards for group in shard) == groups
    assert all(shard == sorted(shard) for shard in shards)
    loads = sorted(sum(costs[group] for group in shard) for shard in shards)
    assert loads == [21, 22, 40]
