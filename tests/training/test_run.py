"""Long runs as their user meets them: killed, stopped, resumed, refused, on two ranks."""

import json
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.processes import free_port

Start = Callable[..., "subprocess.Popen[str]"]


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / (run / "checkpoints/LATEST").read_text()
    return {
        f"{name}/{key}": value
        for name in ("model", "optimizer", "average")
        if (folder / f"{name}.safetensors").exists()
        for key, value in load_file(folder / f"{name}.safetensors").items()
    }


def log_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """Every tensor and every logged number equal, but for the speed."""
    expected, found = final_tensors(one), final_tensors(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    timings = {"images_per_second", "seconds"}
    logs = [
        [{k: v for k, v in line.items() if k not in timings} for line in log_lines(run)]
        for run in (one, other)
    ]
    assert logs[0] == logs[1]


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_leaves_everything(digits: ModuleType, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert digits.main([str(run), "steps=23", "log.every=5", "optimizer.lr=1e-3"]) == 0
    assert "optimizer:\n  kind: adamw\n" in (run / "config.yaml").read_text()
    lines = log_lines(run)
    assert [line["step"] for line in lines] == [1, 5, 10, 15, 20, 23]
    assert lines[-1]["images"] == 23 * 32
    assert lines[1]["lr"] <= 1e-3
    assert lines[-1].keys() >= {"loss", "accuracy", "grad_norm", "images_per_second", "seconds"}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert (environment["ranks"], environment["threads"], environment["seed"]) == (1, 1, 0)
    assert list((run / "tensorboard").iterdir())
    picture = Image.open(run / "previews/digits-00000023.png")
    assert picture.size == (8 * 58 - 2, 2 * 58 - 2)  # ten digits of 8 x 8, seven times enlarged
    assert (run / "export.txt").read_text() == "23"
    printed = capsys.readouterr().out
    assert "training to step 23" in printed
    assert "step 21 of 23" in printed
    assert "finished at step 23" in printed


def test_killed_anywhere_and_resumed_equals_uninterrupted(
    digits: ModuleType, start: Start, tmp_path: Path
) -> None:
    # 1797 digits are 56.2 batches: the kill falls into the second epoch. Checkpoints are written
    # so often that it may fall into one of them.
    options = ["steps=90", "checkpoint.every=4", "critic=true"]
    assert digits.main([str(tmp_path / "straight"), *options]) == 0

    killed = tmp_path / "killed"
    process = start(killed, *options, STEP_SECONDS="0.03")
    log = killed / "log.jsonl"
    wait_for(lambda: log.exists() and '"step": 65,' in log.read_text(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with log.open("a") as file:  # as if it had died in the middle of a line, later
        file.write('{"step": 70, "loss": 0.0}\n{"step": 7')

    assert digits.main([str(killed), *options, "--resume"]) == 0
    assert_same_run(tmp_path / "straight", killed)
    assert len(json.loads((killed / "environment.json").read_text())["resumed"]) == 1


def test_sigterm_finishes_the_step_and_says_how_to_continue(
    digits: ModuleType, start: Start, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    options = ["steps=60"]
    process = start(run, *options, STEP_SECONDS="0.02")
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    busy = digits.main([str(run), *options, "--resume"])
    assert (busy, "another process is training here" in capsys.readouterr().err) == (2, True)

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGTERM: stopping after this step" in err
    assert "interrupted at step" in out and "--resume" in out
    stopped_at = int((run / "export.txt").read_text())
    assert 0 < stopped_at < 60

    assert digits.main([str(run), *options, "--resume"]) == 0
    assert f"from step {stopped_at} to step 60" in capsys.readouterr().out
    assert digits.main([str(tmp_path / "straight"), *options]) == 0
    assert_same_run(tmp_path / "straight", run)

    assert digits.main([str(run), *options, "--resume"]) == 0
    assert "all 60 steps are done already" in capsys.readouterr().out


def test_an_existing_run_is_not_touched_unasked(
    digits: ModuleType, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"

    def refusal(*arguments: str) -> str:
        before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
        assert digits.main([str(run), *arguments]) == 2
        assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert digits.main([str(run), "steps=3", "--resume"]) == 0  # nothing there yet: it starts
    capsys.readouterr()
    message = refusal("steps=3")
    assert "--resume" in message and "--overwrite" in message
    message = refusal("steps=4", "--resume")
    assert "config.yaml: steps is 3 in this run and 4 now" in message
    assert "exclude each other" in refusal("steps=3", "--resume", "--overwrite")

    assert digits.main([str(run), "steps=4", "--overwrite"]) == 0
    assert [line["step"] for line in log_lines(run)] == [1, 4]
    assert max(p.name for p in run.glob("previews/*")) == "digits-00000004.png"

    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "data_fingerprint": "other"}))
    (run / "checkpoints/LATEST").unlink()
    assert "data_fingerprint is 'other' there and 'digits' now" in refusal("steps=4", "--resume")

    run = tmp_path / "papers"
    run.mkdir()
    (run / "thesis.tex").write_text("years of work")
    assert "exists and is not a run" in refusal("--overwrite")


def test_divergence_names_step_and_last_checkpoint(
    digits: ModuleType, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv("BROKEN_FROM", "12")
    assert digits.main([str(run), "steps=20", "checkpoint.every=5"]) == 2
    error = capsys.readouterr().err
    assert "step 13, phase 'digits': the loss is inf" in error
    assert f"the last checkpoint is {run}/checkpoints/step-00000010" in error


def test_a_full_disk_loses_nothing_that_was_written(
    digits: ModuleType, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, options = tmp_path / "run", ["steps=20", "checkpoint.every=5", "log.every=20"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setenv("FULL_FROM", "12")
    try:
        status = digits.main([str(run), *options])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "file too large; the last checkpoint is" in error and "step-00000010" in error

    monkeypatch.delenv("FULL_FROM")
    assert digits.main([str(run), *options, "--resume"]) == 0
    assert digits.main([str(tmp_path / "straight"), *options]) == 0
    assert_same_run(tmp_path / "straight", run)


def torchrun() -> tuple[str, ...]:
    address = ("--master_addr", "127.0.0.1", "--master_port", str(free_port()))
    return ("-m", "torch.distributed.run", "--nproc_per_node", "2", *address)


def test_two_ranks_equal_one(digits: ModuleType, start: Start, tmp_path: Path) -> None:
    options = ["steps=12", "batch_norm=false", "dropout=0", "critic=true", "log.every=1"]
    process = start(tmp_path / "two", *options, "compute.accumulation=2", launcher=torchrun())
    assert digits.main([str(tmp_path / "one"), *options]) == 0
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("finished at step 12") == 1

    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for a, b in zip(log_lines(tmp_path / "one"), log_lines(tmp_path / "two"), strict=True):
        for key in ("step", "digits/loss", "digits/accuracy", "critic/loss", "digits/grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), key
    assert json.loads((tmp_path / "two/environment.json").read_text())["ranks"] == 2


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(
    digits: ModuleType, start: Start, tmp_path: Path
) -> None:
    options = ["steps=24", "batch_norm=false", "dropout=0", "checkpoint.every=8", "log.every=4"]
    assert digits.main([str(tmp_path / "one"), *options]) == 0
    run = tmp_path / "both"
    process = start(run, *options, launcher=torchrun(), BROKEN_FROM="18")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "step 19, phase 'digits'" in err, err

    assert digits.main([str(run), *options, "--resume"]) == 0
    for name, value in final_tensors(tmp_path / "one").items():
        torch.testing.assert_close(final_tensors(run)[name], value, rtol=1e-4, atol=1e-5, msg=name)
    losses = [[line["loss"] for line in log_lines(r)] for r in (tmp_path / "one", run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_shared_out_weights_train_resume_and_export_as_whole_ones(
    digits: ModuleType, start: Start, tmp_path: Path
) -> None:
    options = [
        "steps=16", "batch_norm=false", "dropout=0", "checkpoint.every=5", "log.every=4",
        "health.every=4", "average.kind=ema", "average.decay=0.5", "regularization.l1=1e-4",
        "regularization.decoupled=true",
    ]  # fmt: skip
    assert digits.main([str(tmp_path / "one"), *options]) == 0

    run = tmp_path / "shares"
    options += ["compute.distribution=fsdp2", "compute.accumulation=2"]
    process = start(run, *options, launcher=torchrun(), BROKEN_FROM="12")
    assert process.wait(timeout=120) != 0
    process = start(run, *options, "--resume", launcher=torchrun())
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "from step 10 to step 16" in out

    one, shares = final_tensors(tmp_path / "one"), final_tensors(run)
    assert one.keys() == shares.keys()
    for name, value in one.items():
        torch.testing.assert_close(shares[name], value, rtol=1e-3, atol=1e-4, msg=name)
    exports = [load_file(r / "export.safetensors") for r in (tmp_path / "one", run)]
    for name, value in exports[0].items():
        torch.testing.assert_close(exports[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for a, b in zip(log_lines(tmp_path / "one"), log_lines(run), strict=True):
        assert a.keys() == b.keys()
        measured = {k for k in a if k.startswith(("health/grad_norm", "health/update_ratio"))}
        for key in {"loss", "lr", "grad_norm", "accuracy"} | measured:
            assert b[key] == pytest.approx(a[key], rel=2e-3, abs=1e-4), key


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(
    digits: ModuleType, start: Start, tmp_path: Path
) -> None:
    # A checkpoint at every step, and large ones: many a kill falls into the writing of one.
    options = [
        "steps=1500", "checkpoint.every=1", "checkpoint.keep=1", "log.every=10", "critic=true",
        "average.kind=ema", "log.trackers=[]", "width=64",
    ]  # fmt: skip
    straight = start(tmp_path / "straight", *options)
    assert straight.wait(timeout=600) == 0, straight.communicate()

    run, chance = tmp_path / "killed", random.Random(0)
    latest = run / "checkpoints/LATEST"
    for _ in range(50):
        before = latest.read_text() if latest.exists() else None
        process = start(run, *options, "--resume", STEP_SECONDS="0.02")
        wait_for(lambda b=before: latest.exists() and latest.read_text() != b, process)
        time.sleep(chance.uniform(0, 0.4))
        assert process.poll() is None, "the run is too short for so many kills"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    final = start(run, *options, "--resume")
    assert final.wait(timeout=600) == 0, final.communicate()
    assert_same_run(tmp_path / "straight", run)


@pytest.mark.slow
def test_two_ranks_stop_together_and_refuse_together(
    digits: ModuleType, start: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["steps=400"]
    process = start(run, *options, launcher=torchrun(), STEP_SECONDS="0.02")
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "interrupted at step" in out
    assert 0 < int((run / "export.txt").read_text()) < 400

    process = start(run, *options, launcher=torchrun())
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"error: {run}: this run exists" in err
    assert "error: stopped: the first rank met an error" in err
