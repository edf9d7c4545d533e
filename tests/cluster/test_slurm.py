"""Pretraining under a real Slurm: preempted, requeued, resumed, cancelled."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.cluster.local_slurm import Slurm
from tests.processes import ROOT, run_module

pytestmark = pytest.mark.slow

SBATCH = ROOT / "configs/cluster/slurm.sbatch"
# This machine has no GPU; and a test is to be told at once where the script is wrong.
HERE = ("--gpus-per-node=0", "--cpus-per-task=1", "--output=job.out")


@dataclass(frozen=True)
class Job:
    id: str
    log: Path


def command_environment(slurm: Slurm) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{slurm.environment['PATH']}",
    }


def submit(slurm: Slurm, folder: Path, *options: str) -> Job:
    """Submit digits.yaml in `folder` with the project's batch script."""
    command = ("sbatch", "--parsable", *HERE, *options, SBATCH, "digits.yaml")
    return Job(slurm.run(*command, cwd=folder, **command_environment(slurm)), folder / "job.out")


def submit_by_command(slurm: Slurm, folder: Path, *options: str) -> Job:
    """Submit digits.yaml in `folder` with `python -m training submit`."""
    command = [sys.executable, "-m", "training", "submit", "digits.yaml", f"--script={SBATCH}"]
    command += ["--gpus-per-node=0", "--sbatch", "cpus-per-task=1", *options]
    # The environment of a shell in which nothing is activated.
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    printed = slurm.run(*command, cwd=folder, **environment)
    job_id = re.match(r"job (\d+): 1 node\(s\) x 2 rank\(s\), into runs/digits$", printed, re.M)
    log = re.search(r"^log, once it runs: (.*)$", printed, re.M)
    assert job_id and log and f"scancel {job_id[1]}" in printed, printed
    return Job(job_id[1], Path(log[1]))


def wait_for(
    condition: Callable[[], bool], explain: Callable[[], str], seconds: float = 120
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


def reached(folder: Path, step: int) -> bool:
    log = folder / "runs/digits/log.jsonl"
    return log.exists() and any(
        json.loads(line)["step"] >= step for line in log.read_text().splitlines(keepends=True)[:-1]
    )


def wait_for_step(slurm: Slurm, job: Job, folder: Path, step: int) -> None:
    """Wait until a job's run has logged a step."""

    def has_come() -> bool:
        assert slurm.job(job.id)["JobState"] != "FAILED", job.log.read_text()
        return reached(folder, step)

    wait_for(has_come, lambda: f"{slurm.job(job.id)}")


def wait_until_finished(slurm: Slurm, job: Job) -> str:
    """Wait for a job; return its output."""

    def explain() -> str:
        return f"{slurm.job(job.id)}\n{job.log.read_text() if job.log.exists() else 'no output'}"

    wait_for(lambda: slurm.job(job.id)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), explain)
    assert slurm.job(job.id)["JobState"] == "COMPLETED", explain()
    return job.log.read_text()


def assert_resumed_equals_uninterrupted(folder: Path, config: Path) -> None:
    """The run in `folder`, of two ranks, ends with the weights of one that nobody stopped."""
    assert len(json.loads((folder / "runs/digits/environment.json").read_text())["resumed"]) == 1
    log = (folder / "runs/digits/log.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == [1, *range(10, 601, 10)]
    run_module(
        "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "pretrain",
        config, "name=straight", cwd=folder,
    )  # fmt: skip
    expected = load_file(folder / "runs/straight/encoder.safetensors")
    found = load_file(folder / "runs/digits/encoder.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize(
    ("submit", "partition", "shape"),
    [
        # Slurm requeues the job itself.
        (submit, "low", ("--nodes=2", "--ntasks-per-node=1")),
        # Its ranks are asked to stop and have a minute: the batch script requeues it.
        (submit, "grace", ("--nodes=1", "--ntasks-per-node=2")),
        (submit_by_command, "grace", ("--nodes=1", "--ranks-per-node=2")),
    ],
)
def test_a_preempted_job_resumes_and_finishes(
    slurm: Slurm,
    config: Path,
    tmp_path: Path,
    submit: Callable[..., Job],
    partition: str,
    shape: tuple[str, ...],
) -> None:
    job = submit(slurm, tmp_path, f"--partition={partition}", *shape)
    wait_for_step(slurm, job, tmp_path, 100)
    urgent = ("--partition=high", "--nodes=2", "--exclusive", "--output=urgent.out")
    slurm.run("sbatch", *urgent, "--wrap=true", cwd=tmp_path)

    output = wait_until_finished(slurm, job)
    assert slurm.job(job.id)["Restarts"] == "1"
    assert "interrupted at step" in output and "finished at step 600" in output
    assert_resumed_equals_uninterrupted(tmp_path, config)


def test_a_requeued_job_resumes_and_finishes(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, "--nodes=1", "--ntasks-per-node=2")
    wait_for_step(slurm, job, tmp_path, 100)
    slurm.run("scontrol", "requeue", job.id)
    wait_until_finished(slurm, job)
    assert_resumed_equals_uninterrupted(tmp_path, config)


def test_a_job_at_its_time_limit_is_requeued_with_a_checkpoint(
    slurm: Slurm, config: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text().replace("steps: 600", "steps: 1000000"))
    # The script's signal comes 120 s, or by Slurm's clock up to 60 s more, before this limit.
    job = submit(slurm, tmp_path, "--nodes=1", "--ntasks-per-node=2", "--time=3")

    def goes_on() -> bool:
        return job.log.exists() and "training from step" in job.log.read_text()

    wait_for(goes_on, lambda: f"{slurm.job(job.id)}\n{job.log.read_text()}", seconds=300)
    slurm.run("scancel", job.id)
    assert slurm.job(job.id)["Restarts"] == "1"
    assert "interrupted at step" in job.log.read_text()
    wait_for(lambda: not slurm.run("squeue", "--noheader"), job.log.read_text)


@pytest.mark.parametrize(
    ("submit", "ranks"),
    [(submit, "--ntasks-per-node=2"), (submit_by_command, "--ranks-per-node=2")],
)
def test_a_cancelled_job_leaves_a_checkpoint_and_stays_away(
    slurm: Slurm, config: Path, tmp_path: Path, submit: Callable[..., Job], ranks: str
) -> None:
    job = submit(slurm, tmp_path, "--nodes=1", ranks)
    wait_for_step(slurm, job, tmp_path, 100)
    slurm.run("scancel", job.id)
    wait_for(lambda: slurm.job(job.id)["JobState"] == "CANCELLED", job.log.read_text)
    wait_for(lambda: not slurm.run("squeue", "--noheader", f"--jobs={job.id}"), job.log.read_text)
    assert "interrupted at step" in job.log.read_text()
    assert (tmp_path / "runs/digits/checkpoints/LATEST").exists()
    assert slurm.job(job.id)["Restarts"] == "0"


def test_bad_input_ends_the_job_for_good(slurm: Slurm, config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("steps: 600", "steps: 0"))
    job = submit(slurm, tmp_path, "--nodes=1", "--ntasks-per-node=1")
    wait_for(lambda: slurm.job(job.id)["JobState"] == "FAILED", lambda: str(slurm.job(job.id)))
    assert (slurm.job(job.id)["ExitCode"], slurm.job(job.id)["Restarts"]) == ("2:0", "0")
    assert job.log.read_text().startswith("error: digits.yaml: steps: ")


def test_a_job_with_a_hanging_rank_fails_with_its_number(
    slurm: Slurm, config: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text().replace("compile: false", "rank_timeout: 5"))
    job = submit(slurm, tmp_path, "--nodes=1", "--ntasks-per-node=2")
    wait_for_step(slurm, job, tmp_path, 50)
    (rank_1,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"][1:3] == ["-m", "pretrain"]
        and process.environ().get("SLURM_JOB_ID") == job.id
        and process.environ()["RANK"] == "1"
    ]
    rank_1.send_signal(signal.SIGSTOP)
    wait_for(lambda: slurm.job(job.id)["JobState"] == "FAILED", job.log.read_text)
    assert slurm.job(job.id)["Restarts"] == "0"
    assert "error: rank 1 on " in job.log.read_text()
    assert "no sign of life for 5 s" in job.log.read_text()


def test_a_submission_that_slurm_refuses_is_told_in_one_line(
    slurm: Slurm, config: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "training", "submit", config, f"--script={SBATCH}"]
    done = subprocess.run(
        [*command, "--gpus-per-node=0", "--partition=nowhere"],
        cwd=tmp_path,
        env={**slurm.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: submit: Slurm refuses: ")
    assert "nvalid partition" in done.stderr and done.stderr.count("\n") == 1
