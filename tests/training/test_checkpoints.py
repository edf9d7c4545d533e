"""Checkpoints: whole or absent, whatever the moment of death."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training.checkpoints import (
    Checkpoint,
    Progress,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from training.errors import InputError
from training.state import TrainerState


def checkpoint(step: int) -> Checkpoint:
    tied = torch.full((50, 50), float(step)).to(memory_format=torch.contiguous_format)
    image = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    model = {"a.weight": tied, "b.weight": tied, "image": image, "count": torch.tensor(step)}
    optimizer = {"fit/a.weight/exp_avg": tied / 3, "fit/a.weight/step": torch.tensor(float(step))}
    average = {"a.weight": tied / 2}
    state = TrainerState(model, optimizer, average, {"fit": {"scale": 2.0}})
    watch = {"plateau": {"factor": 0.5}}
    return Checkpoint(step, 1.5, state, watch, {"a.weight": tied / 4}, stopped_early=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = checkpoint(7)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, keep=1))
    assert (loaded.step, loaded.seconds, loaded.stopped_early) == (7, 1.5, True)
    assert read_progress(tmp_path / "step-00000007") == Progress(7, 1.5, stopped_early=True)
    assert loaded.state.scalers == {"fit": {"scale": 2.0}}
    assert loaded.watch == saved.watch
    for before, after in (
        (saved.state.model, loaded.state.model),
        (saved.state.optimizer, loaded.state.optimizer),
        (saved.state.average, loaded.state.average),
        (saved.best, loaded.best),
    ):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "LATEST",
        "step-00000030",
        "step-00000040",
    ]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000040"


def test_remains_of_a_killed_save_are_neither_read_nor_kept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    partial = tmp_path / ".writing-step-00000020"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    renamed_but_not_latest = tmp_path / "step-00000030"
    renamed_but_not_latest.mkdir()
    assert load_checkpoint(latest_checkpoint(tmp_path) or tmp_path).step == 10

    save_checkpoint(tmp_path, checkpoint(20), keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-00000020"]


def test_no_space_leaves_the_last_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    with largest_file(5000), pytest.raises(OSError, match="File too large"):
        save_checkpoint(tmp_path, checkpoint(20), keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-00000010"]
    assert load_checkpoint(tmp_path / "step-00000010").step == 10


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(10), keep=1)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read .*--overwrite$"):
        load_checkpoint(folder)
    (folder / "state.json").write_text('{"format_version": 99}')
    with pytest.raises(InputError, match="found format version 99, this program reads 2"):
        load_checkpoint(folder)
    (tmp_path / "LATEST").write_text("../elsewhere")
    with pytest.raises(InputError, match=r"names '\.\./elsewhere', which is not a checkpoint"):
        latest_checkpoint(tmp_path)
