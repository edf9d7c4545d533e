"""Pretraining on one thing and then on another: which weights go on, and what is told of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.store import open_store
from downstream.source_labels import source_labels
from models.artifact import load_encoder, read_artifact
from pretrain.__main__ import main
from pretrain.config import PretrainConfig
from pretrain.objective import Objective
from pretrain.run import make_trainer
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config
from training.errors import InputError

FIRST = "runs/first/encoder.safetensors"


@pytest.fixture
def first(train: Callable[..., None], tmp_path: Path) -> Path:
    """An encoder that has learned the classes of some digits."""
    train("name=first", "objective={kind: supervised}", "steps=6")
    return tmp_path / FIRST


def test_training_goes_on_from_another_encoders_weights(
    first: Path, config: Path, train: Callable[..., None], tmp_path: Path
) -> None:
    second = load_config(PretrainConfig, config, [f"start={first}", "encoder.spectral_norm=true"])
    store = open_store(second.data.shards)
    objective = make_trainer(second, store, make_accelerator(ComputeConfig(), cpu=True)).trainable
    assert isinstance(objective, Objective)
    plain = load_config(PretrainConfig, config, [f"start={first}"])
    same = make_trainer(plain, store, make_accelerator(ComputeConfig(), cpu=True)).trainable
    assert isinstance(same, Objective) and same.encoder.training
    before = load_encoder(first)
    images = torch.rand(4, 1, 16, 16)
    weights = before.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in same.encoder.state_dict().items())
    # Its memory layout is another, for which some machines round otherwise.
    torch.testing.assert_close(same.encoder.eval()(images), before(images), rtol=1e-4, atol=1e-5)
    assert objective.encoder.config.spectral_norm
    assert not torch.allclose(objective.encoder.eval()(images), before(images), atol=1e-3)

    train("name=second", f"start={FIRST}")
    header = read_artifact(tmp_path / "runs/second/encoder.safetensors")
    start = header.trained_on.model_dump()["start"]
    assert start["objective"] == "supervised" and start["trained_on"]["labels"] == 300
    told = source_labels(header.trained_on.model_dump())
    assert told is not None and told.count == 300 and "class labels" in str(told)
    assert json.loads((tmp_path / "runs/second/environment.json").read_text())["data"]["start"]

    train("name=killed", f"start={FIRST}")
    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    train("name=killed", f"start={FIRST}", resume=True)
    assert_same_weights(tmp_path / "runs/second", tmp_path / "runs/killed")
    train("name=first", "objective={kind: supervised}", "steps=4", overwrite=True)
    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    with pytest.raises(
        InputError, match=r"environment.json: data.start.sha256 has other content now"
    ):
        train("name=killed", f"start={FIRST}", resume=True)


def test_an_encoder_that_does_not_fit_is_told_in_one_line(
    first: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("no weights")
    for overrides, words in [
        (["encoder.widths=[8, 32]"], ["encoder.widths", "[8, 32]", FIRST, "[8, 16]"]),
        (["encoder={kind: dense, widths: [8]}"], ["encoder.kind", "dense", "conv"]),
        (["data.size=32"], ["1x16x16", "1x32x32", "data.size"]),
        (["start=nowhere.safetensors"], ["start", "nowhere.safetensors"]),
        (["start=text.safetensors"], ["start", "text.safetensors"]),
        (
            ["encoder={kind: conv_rbm, widths: [8]}", "objective={kind: rbm}"],
            ["encoder.kind", "conv_rbm", "conv"],
        ),
    ]:
        assert main([str(config), f"start={FIRST}", *overrides, "name=other"]) == 2
        assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs/other").exists()
