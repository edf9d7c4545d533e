"""`python -m downstream curve --slurm` under a real Slurm: an array, a requeue, the merge."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from downstream.results import PARTS, Row, read_rows
from tests.cluster.local_slurm import Slurm
from tests.downstream.conftest import digits, encoders  # noqa: F401 (fixtures)
from tests.processes import ROOT, run_module

pytestmark = pytest.mark.slow

SBATCH = ROOT / "configs/cluster/study.sbatch"


def wait_for(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


def queue(slurm: Slurm, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "downstream", "curve", "study.yaml", "--slurm=2"]
    return subprocess.run(
        [*command, f"--script={SBATCH}", "--sbatch", "cpus-per-task=1", *options],
        cwd=folder,
        # The environment of a shell in which nothing is activated.
        env={**slurm.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_an_array_computes_the_rows_and_a_requeued_task_goes_on(
    slurm: Slurm,
    digits: Path,  # noqa: F811
    encoders: list[Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    values = {
        "name": "study",
        "encoder": str(encoders[0]),
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budgets": [20, 60],
        "draws": 5,
        "arms": ["frozen", "scratch"],
        "features": {"grid": 2},
        "scratch": {"recipe": {"steps": 60}},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    refused = queue(slurm, tmp_path, "--sbatch", "partition=nowhere")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "Slurm refuses" in refused.stderr

    done = queue(slurm, tmp_path)
    assert done.returncode == 0, done.stderr
    job = re.search(r"^job (\d+): an array of 2 task\(s\)$", done.stdout, re.M)
    assert job and "python -m downstream curve study.yaml" in done.stdout, done.stdout
    folder = tmp_path / "runs/study"

    def logs() -> str:
        return "\n".join(path.read_text() for path in sorted(folder.glob("slurm/*.out")))

    def parts() -> list[Path]:
        return list(folder.glob(PARTS))

    wait_for(lambda: len(parts()) == 2 and min(p.stat().st_size for p in parts()) > 0, logs)
    slurm.run("scontrol", "requeue", f"{job[1]}_0")
    wait_for(lambda: not slurm.run("squeue", "--noheader"), logs)
    assert sorted(path.name for path in folder.glob("slurm/*.out")) == [
        f"{job[1]}_{task}_0_log.out" for task in (0, 1)
    ]
    assert all(f"shard {task}/2 is done" in logs() for task in (0, 1)), logs()

    again = run_module("downstream", "curve", "study.yaml", cwd=tmp_path)
    assert "0 to compute" in again.stdout and "report: " in again.stdout
    run_module("downstream", "curve", "study.yaml", "name=alone", cwd=tmp_path)
    rows, alone = (
        {row.key: {**vars(row), "seconds": 0} for row in read_rows(path, Row)}
        for path in (folder / "results.jsonl", tmp_path / "runs/alone/results.jsonl")
    )
    assert rows == alone and not parts()
    assert len(json.loads((folder / "summary.json").read_text())["arms"]) == 2
