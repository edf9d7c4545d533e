"""Pretraining on shards behind URLs: as from memory, killed and gone on with, on two ranks."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.pack import pack
from models.artifact import read_artifact
from pretrain.run import pretrain
from tests.data.shard_server import serving
from tests.data.tars import random_images
from tests.processes import environment, run_module, run_on_ranks

SHARDS = 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("set")
    np.savez(root / "x.npz", x_train=random_images(10 * SHARDS, 16, 16, seed=1))
    pack(str(root / "x.npz"), root / "shards", shard_size=10)
    return root / "shards"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def config(folder: Path, url: str, **data) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    streaming = {"lanes": 2, "window": 1, "cache": {"folder": str(folder / "cache")}}
    values = {
        "name": "tiny",
        "runs_dir": str(folder / "runs"),
        "data": {"shards": f"{url}/train-{{000000..000023}}.tar", "streaming": streaming, **data},
        "epochs": 1.5,
        "batch_size": 16,
        "encoder": {"kind": "conv", "widths": [4, 8], "norm": "group"},
        "objective": {"kind": "autoencoder"},
        "checkpoint": {"every": 8},
        "log": {"every": 1, "trackers": []},
        "compute": {"compile": False},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def losses(folder: Path, name: str = "loss") -> list[float]:
    lines = (folder / "runs/tiny/log.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def artifact(folder: Path) -> Path:
    return folder / "runs/tiny/encoder.safetensors"


def test_a_killed_run_goes_on_to_the_same_weights(shards, tmp_path):
    run_folder, stalled = tmp_path / "again/runs/tiny", threading.Event()

    def stall(name: str, number: int) -> str | None:
        """Let the run wait for a shard, once it has a checkpoint, for a kill."""
        if not (run_folder / "checkpoints/LATEST").exists():
            return None
        stalled.set()
        return "stall"

    with serving(shards) as server:
        pretrain(config(tmp_path / "whole", server.url), [], resume=False, overwrite=False)
        server.faults = stall
        again = config(tmp_path / "again", server.url)
        command = [sys.executable, "-m", "pretrain", str(again)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as run:
            assert stalled.wait(60)
            run.send_signal(signal.SIGKILL)
        server.faults = lambda name, number: None
        pretrain(again, [], resume=True, overwrite=False)
    assert len(json.loads((run_folder / "environment.json").read_text())["resumed"]) == 1
    first, second = (load_file(artifact(tmp_path / run)) for run in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert losses(tmp_path / "whole") == losses(tmp_path / "again")


def test_what_is_held_out_is_measured_and_no_query_is_published(shards, tmp_path, capsys):
    with serving(shards) as server:
        path = config(tmp_path, server.url, held_out=0.25)
        spec = f"data.shards={server.url}/train-{{000000..000023}}.tar?signature=hidden"
        overrides = [spec, "steps=3", "epochs=null", "probe.every=1"]
        pretrain(path, overrides, resume=False, overwrite=False)
    assert np.isfinite(losses(tmp_path, "held_out/loss")).all()
    header = read_artifact(artifact(tmp_path))
    assert header.trained_on.images == 180
    assert b"hidden" not in artifact(tmp_path).read_bytes()
    said = capsys.readouterr()
    assert "finished at step 3" in said.out and "hidden" not in said.out + said.err


@pytest.mark.slow
def test_two_ranks_share_the_shards_and_a_cache(shards, tmp_path):
    with serving(shards) as server:
        run_module("pretrain", config(tmp_path / "one", server.url))
        server.asked.clear()
        run_on_ranks(2, "pretrain", config(tmp_path / "two", server.url))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    fetched = [name for name, _ in server.asked if name.endswith(".tar")]
    assert len(fetched) == SHARDS  # none was fetched twice
