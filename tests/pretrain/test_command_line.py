"""`python -m pretrain` as its users meet it: real processes on real shards."""

import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from models.artifact import load_encoder, read_artifact
from pretrain.__main__ import main
from tests.pretrain.conftest import Command
from tests.processes import environment, run_module, run_on_ranks


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_one_line(stderr: str, *words: str) -> None:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in stderr
    for word in words:
        assert word in line, line


def wait_for_lines(log: Path, count: int, process: subprocess.Popen[Any]) -> None:
    """Wait until a process's run has logged so many lines."""
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert process.poll() is None
        time.sleep(0.002)


def test_a_run_leaves_everything_that_is_promised(run_pretrain: Command, tmp_path: Path) -> None:
    done = run_pretrain("steps=8")
    run = tmp_path / "runs" / "digits"

    assert "python -m downstream curve" in done.stdout
    assert str(Path("runs/digits/encoder.safetensors")) in done.stdout
    assert "the set needs test images, and has none" in done.stdout

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["images"] == 8 * 32
    assert lines[-1]["loss"] < lines[0]["loss"]

    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["steps"] == 8
    assert resolved["encoder"]["norm"] == "batch"

    assert sorted(p.name for p in (run / "previews").iterdir() if "00000008" in p.name) == [
        "filters-00000008.png",
        "reconstructions-00000008.png",
    ]
    assert list((run / "tensorboard").iterdir())

    header = read_artifact(run / "encoder.safetensors")
    assert header.trained_on.images == 300
    assert header.metrics["steps"] == 8
    environment_file = json.loads((run / "environment.json").read_text())
    assert environment_file["data"]["fingerprint"] == header.trained_on.fingerprint

    encoder = load_encoder(run / "encoder.safetensors")
    assert encoder.stage_names == ["stage1", "stage2"]
    assert encoder(torch.rand(2, 1, 16, 16)).shape == (2, 16, 4, 4)


def test_print_config_runs_nothing(run_pretrain: Command, tmp_path: Path) -> None:
    done = run_pretrain("--print-config", "schedule.kind=cosine", "optimizer.kind=momentum")
    printed = yaml.safe_load(done.stdout)
    assert printed["schedule"]["kind"] == "cosine"
    assert printed["optimizer"]["momentum"] == 0.9
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_epochs_become_steps(run_pretrain: Command, tmp_path: Path) -> None:
    run_pretrain("steps=null", "epochs=0.5")
    log = (tmp_path / "runs" / "digits" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == round(0.5 * 300 / 32)


@pytest.mark.slow
def test_sigkill_in_mid_epoch_then_resume_equals_uninterrupted(
    config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    run_pretrain("name=whole", "steps=60", "checkpoint.every=5")
    command = [sys.executable, "-m", "pretrain", str(config), "name=killed", "steps=60"]
    command += ["checkpoint.every=5", "--resume"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    log = tmp_path / "runs" / "killed" / "log.jsonl"
    wait_for_lines(log, 13, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = json.loads((tmp_path / "runs/killed/log.jsonl").read_text().splitlines()[-2])["step"]
    assert reached < 60, "the run was over before it was killed"

    run_pretrain("name=killed", "steps=60", "checkpoint.every=5", "--resume")
    assert_same_weights(tmp_path / "runs/whole", tmp_path / "runs/killed")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 61))


def test_sigterm_checkpoints_and_prints_the_command_that_goes_on(
    config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pretrain", str(config), "steps=100000"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for_lines(tmp_path / "runs/digits/log.jsonl", 3, process)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "--resume" in stdout
    assert "steps=100000" in stdout
    assert (tmp_path / "runs/digits/checkpoints/LATEST").exists()
    assert (tmp_path / "runs/digits/encoder.safetensors").exists()


def test_ctrl_c_before_the_first_step_is_one_line(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-v", "-m", "pretrain", str(config), "steps=100000"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, these tests for instance.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:  # what is imported: the command has begun, and goes on for seconds
        if line.startswith("import 'data.errors'"):
            break
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "stopped before the first step; the same command begins again" in said
    assert "Traceback" not in said


def test_ctrl_c_that_a_library_swallows_ends_the_command_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text("""\
import contextlib, os, signal
from data.command_line import run
from training.signals import StopRequest

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests are to ignore it

def main():
    with contextlib.suppress(BaseException):  # as some imports do
        os.kill(os.getpid(), signal.SIGINT)
    with StopRequest():
        print("went on")
    return 0

run(main, when_stopped="stopped; again")
""")
    done = run_module("command", cwd=tmp_path, status=130)
    assert (done.stdout, done.stderr) == ("", "stopped; again\n")


@pytest.mark.slow
def test_a_batch_system_can_ask_for_another_status_of_a_stopped_run(
    config: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pretrain", str(config), "steps=100000"]
    command += ["--interrupted-status", "75"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    wait_for_lines(tmp_path / "runs/digits/log.jsonl", 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75
    assert (tmp_path / "runs/digits/checkpoints/LATEST").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_checkpoints_and_the_next_start_goes_on(
    number: signal.Signals, config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    options = ["encoder.norm=group", "steps=150"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [*launcher, "-m", "pretrain", str(config), *options, "--resume"]
    stopped = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for_lines(tmp_path / "runs/digits/log.jsonl", 3, stopped)
    stopped.send_signal(number)
    stdout, _ = stopped.communicate(timeout=60)
    assert stdout.count("interrupted at step") == 1
    (again,) = re.findall(r"^to go on, by the same launcher: (.*)$", stdout, re.MULTILINE)
    assert again == f"-m pretrain {config} encoder.norm=group steps=150 --resume"

    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"from step \d+ to step 150", done.stdout)
    assert "finished at step 150" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "compute.accumulation=1",
        "compute.accumulation=2",
        "compute.distribution=fsdp2",
    ],
)
def test_two_ranks_equal_one(how: str, config: Path, run_pretrain: Command, tmp_path: Path) -> None:
    # Without batch norm: its statistics are those of the rows at hand.
    same = ["encoder.norm=layer", "steps=6", how]
    run_pretrain("name=one", "encoder.norm=layer", "steps=6")
    done = run_on_ranks(2, "pretrain", config, "name=two", *same, cwd=tmp_path)
    assert "2 ranks" in done.stdout
    one, two = weights(tmp_path / "runs/one"), weights(tmp_path / "runs/two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_an_existing_run_is_not_touched_unless_told(run_pretrain: Command, tmp_path: Path) -> None:
    run_pretrain("steps=2")
    before = (tmp_path / "runs/digits/encoder.safetensors").stat().st_mtime_ns
    refused = run_pretrain("steps=2", status=2)
    assert_one_line(refused.stderr, "runs/digits", "--resume", "--overwrite")
    other = run_pretrain("steps=3", "--resume", status=2)
    assert_one_line(other.stderr, "steps", "2", "3")
    finished = run_pretrain("steps=2", "--resume")
    assert "done already" in finished.stdout
    assert (tmp_path / "runs/digits/encoder.safetensors").stat().st_mtime_ns == before
    run_pretrain("steps=3", "--overwrite")
    assert read_artifact(tmp_path / "runs/digits/encoder.safetensors").metrics["steps"] == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stepz=3"], ["stepz", "steps"]),
        (["objective.kind=diffusion"], ["objective.kind", "gan", "autoencoder"]),
        (["encoder.kind=conf"], ["encoder.kind", "conf", "conv"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "fast"]),
        (["epochs=2"], ["steps", "epochs"]),
        (["data.shards=nowhere/*.tar"], ["nowhere/*.tar"]),
        (["data.channels=3", "data.size=0"], ["data.size"]),
        (["batch_size=32", "compute.accumulation=5"], ["batch_size", "compute.accumulation"]),
        (["compute.mixed_precision=fp16"], ["compute.mixed_precision", "bf16"]),
        (["name=../escape"], ["name"]),
        (
            ["batch_size=1", "objective.agreement.kind=redundancy"],
            ["batch_size", "objective.agreement.kind"],
        ),
    ],
)
def test_bad_input_is_told_in_one_line(
    overrides: list[str],
    words: list[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(config), *overrides]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_corrupt_shards_end_the_run_unless_told(
    shards: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    content = bytearray((shards / "train-000000.tar").read_bytes())
    picture = content.index(b"IDAT", len(content) // 2)
    content[picture + 8 : picture + 24] = bytes(16)
    (tmp_path / "bad.tar").write_bytes(content)

    done = run_pretrain("data.shards=bad.tar", status=2)
    assert_one_line(done.stderr, "bad.tar", "data.on_bad=skip")
    skipping = run_pretrain("data.shards=bad.tar", "data.on_bad=skip", "steps=2")
    assert re.search(r"\b1\b.*bad.*|bad.*\b1\b", skipping.stdout + skipping.stderr)
    assert read_artifact(tmp_path / "runs/digits/encoder.safetensors").trained_on.images == 149
    strict = run_pretrain(
        "data.shards=bad.tar", "data.on_bad=skip", "data.max_bad_share=0", "name=b", status=2
    )
    assert_one_line(strict.stderr, "bad.tar")


@pytest.mark.slow
def test_a_diverging_run_says_where(run_pretrain: Command) -> None:
    done = run_pretrain("optimizer.kind=sgd", "optimizer.lr=1e30", status=2)
    assert_one_line(done.stderr, "step", "autoencoder", "encoder.stage2", "lower optimizer.lr")


def test_help_explains_without_loading_torch(tmp_path: Path) -> None:
    probe = (
        "import sys, runpy; sys.argv = ['pretrain', '--help']\n"
        "try: runpy.run_module('pretrain', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "torchrun" in done.stdout


@pytest.mark.slow
def test_bf16_and_compile_train_too(run_pretrain: Command, tmp_path: Path) -> None:
    run_pretrain("compute.mixed_precision=bf16", "steps=4")
    log = (tmp_path / "runs/digits/log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["loss"] < json.loads(log[0])["loss"] * 1.5
    assert (tmp_path / "runs/digits/encoder.safetensors").exists()
