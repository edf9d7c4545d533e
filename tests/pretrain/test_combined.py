"""Several objectives on one encoder: what their losses add up to; a weight has one name."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.store import ResidentStore, open_store
from pretrain.__main__ import main
from pretrain.combined import Combined
from pretrain.config import PretrainConfig
from pretrain.run import make_trainer
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights
from training.compute import ComputeConfig, make_accelerator
from training.loop import Trainer
from training.randomness import StepDraws, derive_seed

PARTS = {
    "picture": {"weight": 2.0, "objective": {"kind": "autoencoder"}},
    "cells": {"weight": 0.5, "objective": {"kind": "masked"}},
    "digit": {"objective": {"kind": "supervised", "classes": [0, 1, 2]}},
}


@pytest.fixture(scope="module")
def store(shards: Path) -> ResidentStore:
    return open_store(str(shards / "train-*.tar"))


def trainer_of(store: ResidentStore, shards: Path, **objective: Any) -> Trainer:
    values = {
        "name": "digits",
        "data": {"shards": str(shards / "train-*.tar")},
        "steps": 12,
        "batch_size": 32,
        "encoder": {"kind": "conv", "widths": [8, 16]},
        "objective": {"kind": "combined", "parts": PARTS, **objective},
    }
    config = PretrainConfig.model_validate(values)
    return make_trainer(config, store, make_accelerator(ComputeConfig(), cpu=True))


def combined(trainer: Trainer) -> Combined:
    assert isinstance(trainer.trainable, Combined)
    return trainer.trainable


def look(trainer: Trainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    draws = StepDraws(0, 3, torch.device("cpu"), 32, 0, 32)
    loss, metrics = trainer.trainable("combined", trainer.batches.batch(3), draws)
    return loss, metrics


def test_the_loss_is_the_weighted_sum_of_what_each_part_would_have(
    store: ResidentStore, shards: Path
) -> None:
    trainer = trainer_of(store, shards)
    trainer.train_step(0)
    loss, metrics = look(trainer)
    batch = trainer.batches.batch(3)
    total = 0.0
    for name, values in PARTS.items():
        (phase,) = combined(trainer).parts[name].phases()  # type: ignore[operator]
        draws = StepDraws(derive_seed(0, name), 3, torch.device("cpu"), 32, 0, 32)
        own, _ = phase.loss(batch, draws)
        assert metrics[name].item() == pytest.approx(own.item(), rel=1e-6)
        total += float(values.get("weight", 1.0)) * own.item()  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(total, rel=1e-6)
    assert 0 <= metrics["digit/accuracy"] <= 1


def test_every_part_moves_the_one_encoder(store: ResidentStore, shards: Path) -> None:
    module = combined(trainer_of(store, shards))
    weights = [tensor.data_ptr() for tensor in module.state_dict().values()]
    assert len(set(weights)) == len(weights)
    twin = copy.deepcopy(module)
    assert twin.encoder is not module.encoder
    assert all(part.encoder is twin.encoder for part in twin.parts.values())
    for name in PARTS:
        trainer = trainer_of(store, shards)
        (phase,) = combined(trainer).parts[name].phases()  # type: ignore[operator]
        draws = StepDraws(0, 0, torch.device("cpu"), 32, 0, 32)
        phase.loss(trainer.batches.batch(0), draws)[0].backward()
        lowest = next(iter(combined(trainer).encoder.parameters()))
        assert lowest.grad is not None and lowest.grad.norm() > 0


def test_learned_weights_are_at_rest_where_each_loss_is_the_variance(
    store: ResidentStore, shards: Path
) -> None:
    """Of L / (2 s^2) + log s the least value over s lies at s^2 = L (Kendall et al. 2018)."""
    trainer = trainer_of(store, shards, weighting="uncertainty")
    module = combined(trainer)
    assert module.log_variances is not None
    _, metrics = look(trainer)
    weights = [float(v.get("weight", 1.0)) for v in PARTS.values()]  # type: ignore[arg-type]
    assert [metrics[f"{name}/weight"].item() for name in PARTS] == pytest.approx(weights)
    losses = torch.stack([metrics[name] for name in PARTS])
    with torch.no_grad():
        module.log_variances.copy_(losses.log())
    look(trainer)[0].backward()
    assert module.log_variances.grad is not None
    assert module.log_variances.grad.abs().max() < 1e-6
    with torch.no_grad():
        module.log_variances.add_(1)
    module.log_variances.grad = None
    look(trainer)[0].backward()
    assert module.log_variances.grad.min() > 0.1


def test_a_combined_run_resumes_exactly(
    config: Path, train: Callable[..., None], tmp_path: Path
) -> None:
    values = yaml.safe_load(config.read_text())
    values["objective"] = {"kind": "combined", "weighting": "uncertainty", "parts": PARTS}
    values["data"]["held_out"] = 0.1
    config.write_text(yaml.safe_dump(values))
    train("name=whole")
    train("name=killed")
    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    train("name=killed", resume=True)
    assert_same_weights(tmp_path / "runs/whole", tmp_path / "runs/killed")
    assert "held_out/digit/accuracy" in (tmp_path / "runs/whole/log.jsonl").read_text()
    previews = {path.name for path in (tmp_path / "runs/whole/previews").iterdir()}
    assert {"picture_reconstructions-00000012.png", "filters-00000012.png"} <= previews


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"parts": {"a": {"objective": {"kind": "gan"}}}}, ["parts.a", "gan", "autoencoder"]),
        ({"parts": {"a": {"objective": {"kind": "combined"}}}}, ["parts.a", "combined"]),
        ({"parts": {}}, ["objective.parts"]),
        (
            {"parts": {"a": {"objective": {"kind": "supervised", "classes": [1, 44]}}}},
            ["objective.parts.a: objective.classes: found 44"],
        ),
        (
            {"parts": {"a": {"objective": {"kind": "masked", "cell": 3}}}},
            ["objective.parts.a: objective.cell: found 3"],
        ),
        ({"parts": {"a.b": {}}}, ["objective.parts"]),
        (
            {"weighting": "uncertainty", "parts": {"a": {"objective": {"kind": "variational"}}}},
            ["weighting uncertainty", "parts.a", "fixed"],
        ),
        (
            {
                "weighting": "uncertainty",
                "parts": {"a": {"objective": {"kind": "transformation", "variational": True}}},
            },
            ["weighting uncertainty", "parts.a", "fixed"],
        ),
        ({"parts": {"loss": {}}}, ["objective", "called loss"]),
    ],
)
def test_what_cannot_be_combined_is_told_in_one_line(
    objective: dict[str, Any],
    words: list[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(config.read_text()) | {"objective": {"kind": "combined", **objective}}
    config.write_text(yaml.safe_dump(values))
    assert main([str(config)]) == 2
    assert_one_line(capsys.readouterr().err, *words)
