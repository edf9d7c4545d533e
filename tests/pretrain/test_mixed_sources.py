"""Pretraining on several sources: by the config, in every mode, stopped and gone on with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.pack import pack
from models.artifact import read_artifact
from pretrain.__main__ import main
from tests.data.tars import random_images


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, images in (
        ("photos", random_images(60, 16, 16, 3)),
        ("scans", random_images(40, 12, 12, seed=1)),
    ):
        np.savez(root / f"{name}.npz", images=images)
        pack(root / f"{name}.npz", root / name, shard_size=20)
    return root


def config(folder: Path, sets: Path, **data) -> str:
    sources = [
        {"shards": f"{sets}/photos/*.tar", "weight": 3},
        {"shards": [f"{sets}/scans/*.tar"]},
    ]
    values = {
        "name": "mixed",
        "runs_dir": str(folder / "runs"),
        "data": {"shards": sources, "channels": 1, "size": 16, **data},
        "steps": 8,
        "batch_size": 16,
        "encoder": {"kind": "conv", "widths": [4, 8], "norm": "group"},
        "objective": {"kind": "autoencoder"},
        "checkpoint": {"every": 4, "keep": 9},
        "log": {"every": 1},
        "compute": {"compile": False},
    }
    folder.mkdir(exist_ok=True)
    (folder / "mixed.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "mixed.yaml")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs/mixed/encoder.safetensors")


def test_every_mode_gives_the_same_weights_and_a_stopped_run_goes_on_to_them(sets, tmp_path):
    for mode in ("resident", "indexed"):
        assert main([config(tmp_path / mode, sets, mode=mode)]) == 0
    want = weights(tmp_path / "resident")
    assert all(
        torch.equal(value, weights(tmp_path / "indexed")[name]) for name, value in want.items()
    )
    header = read_artifact(tmp_path / "resident/runs/mixed/encoder.safetensors")
    assert header.trained_on.images == 100
    # As a kill after the first checkpoint leaves it.
    run = tmp_path / "resident/runs/mixed"
    (run / "encoder.safetensors").unlink()
    checkpoints = sorted(run.glob("checkpoints/step-*"))
    for later in checkpoints[1:]:
        shutil.rmtree(later)
    (run / "checkpoints/LATEST").write_text(f"{checkpoints[0].name}\n")
    assert main([config(tmp_path / "resident", sets, mode="resident"), "--resume"]) == 0
    assert all(
        torch.equal(value, want[name]) for name, value in weights(tmp_path / "resident").items()
    )


def test_images_are_held_out_of_every_source(sets, tmp_path):
    assert main([config(tmp_path, sets, held_out=0.2), "probe.every=1"]) == 0
    lines = (tmp_path / "runs/mixed/log.jsonl").read_text().splitlines()
    assert np.isfinite([json.loads(line)["held_out/loss"] for line in lines]).all()
    assert read_artifact(tmp_path / "runs/mixed/encoder.safetensors").trained_on.images == 80


def test_mistakes_are_one_line(sets, tmp_path, capsys):
    for override, said in (
        ("data.size=null", "set data.size and data.channels"),
        ("batch_size=3", "less than an image in each batch of 3"),
        ("data.shards=[{shards: x.tar, wieght: 2}]", "wieght"),
        ("objective={kind: supervised}", "those of several sources do not mean the same"),
    ):
        assert main([config(tmp_path, sets), override, "--overwrite"]) == 2
        errors = capsys.readouterr().err
        assert said in errors, errors
        assert len(errors.strip().splitlines()) == 1
