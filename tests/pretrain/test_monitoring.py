"""The online probe and the held-out loss: what they say, and that they leave training alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from data.store import open_store
from models.artifact import load_encoder, read_artifact
from pretrain.__main__ import main
from pretrain.config import PretrainConfig
from pretrain.held_out import split_rows
from pretrain.probe import ridge_logits
from pretrain.run import make_trainer, pretrain
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights
from tests.processes import run_on_ranks
from training.checkpoints import load_checkpoint
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError

Line = dict[str, Any]


def lines(run: Path) -> list[Line]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def monitored(run: Path) -> dict[int, Line]:
    """The monitors' metrics by the step of their line."""
    found = {}
    for line in lines(run):
        own = {n: v for n, v in line.items() if n.startswith("held_out/") or n == "probe_accuracy"}
        if own:
            found[line["step"]] = own
    return found


def options(shards: Path) -> list[str]:
    return [
        f"probe.shards={shards / 'train-*.tar'}",
        "probe.labels=200",
        "probe.every=5",
        "data.held_out=0.1",
    ]


def test_images_held_out_are_never_trained_on() -> None:
    kept, out = split_rows(300, 0.1)
    assert sorted([*kept, *out]) == list(range(300)) and len(out) == 30
    assert np.array_equal(split_rows(300, 0.1)[1], out)
    assert not np.array_equal(out, np.arange(270, 300))
    with pytest.raises(InputError, match=r"data.held_out: found 0.001, which is 0 of 300"):
        split_rows(300, 0.001)


def test_batches_hold_what_is_not_held_out(config: Path, shards: Path) -> None:
    store = open_store(str(shards / "train-*.tar"))
    values = yaml.safe_load(config.read_text())
    values["data"]["held_out"] = 0.25
    made = PretrainConfig.model_validate(values)
    trainer = make_trainer(made, store, make_accelerator(ComputeConfig(), cpu=True))
    trained, out = split_rows(300, 0.25)
    seen = {
        image.numpy().tobytes()
        for step in range(20)
        for image in trainer.batches.batch(step)["images"]
    }
    assert {store.images[row].numpy().tobytes() for row in trained} == seen
    assert all(store.images[row].numpy().tobytes() not in seen for row in out)


@pytest.mark.slow
def test_monitors_change_nothing_and_resume_exactly(
    run_pretrain: Command, shards: Path, tmp_path: Path
) -> None:
    how = ["encoder.dropout.rate=0.2", "average.kind=ema", "data.held_out=0.1"]
    run_pretrain("name=without", *how, "health.every=0")
    watched = [*how, *options(shards), "health.every=0"]
    run_pretrain("name=with", *watched)
    runs = tmp_path / "runs"
    assert_same_weights(runs / "without", runs / "with")
    assert list(monitored(runs / "with")) == [1, 5, 10, 12]
    assert list(monitored(runs / "without")[12]) == ["held_out/loss"]

    # As a kill after step 8 leaves a run: the log has later lines than the checkpoint.
    checkpoints = runs / "with" / "checkpoints"
    uninterrupted = monitored(runs / "with")
    (checkpoints / "LATEST").write_text("step-00000008\n")
    run_pretrain("name=with", *watched, "--resume")
    assert len(json.loads((runs / "with/environment.json").read_text())["resumed"]) == 1
    assert monitored(runs / "with") == uninterrupted
    assert_same_weights(runs / "without", runs / "with")

    stamped = json.loads((runs / "with/environment.json").read_text())
    assert stamped["probe"]["use"] == "monitoring only" and stamped["probe"]["labels"] == 200
    assert stamped["data"]["images"] == 270
    header = read_artifact(runs / "with/encoder.safetensors")
    assert header.trained_on.images == 270
    assert header.config["probe"]["labels"] == 200  # type: ignore[index, call-overload]
    load_encoder(runs / "with/encoder.safetensors")


def test_the_held_out_loss_is_that_of_the_exported_weights(
    config: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the loss's formula on the images left out, with running statistics and one noise."""
    monkeypatch.chdir(tmp_path)
    pretrain(
        str(config),
        ["data.held_out=0.1", "objective.corruption.kind=none", "steps=6", "batch_size=30"],
        resume=False,
        overwrite=False,
    )
    run = tmp_path / "runs/digits"
    values = monitored(run)
    made = PretrainConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    store = open_store(str(shards / "train-*.tar"))
    trainer = make_trainer(made, store, make_accelerator(ComputeConfig(), cpu=True))
    trainer.load_state(load_checkpoint(run / "checkpoints/step-00000006").state)
    images = store.images[torch.from_numpy(split_rows(300, 0.1)[1])].float() / 255
    module = trainer.trainable.eval()
    with torch.no_grad():
        expected = F.mse_loss(module.decoder(module.encoder(images)), images)  # type: ignore[operator]
    assert values[6]["held_out/loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert values[6]["held_out/loss"] < values[1]["held_out/loss"]


@pytest.mark.slow
def test_two_ranks_log_the_same_values(
    config: Path, run_pretrain: Command, shards: Path, tmp_path: Path
) -> None:
    same = ["encoder.norm=layer", "steps=6", *options(shards)]
    # Each rank judges by what it has: were the values not equal, the ranks would part.
    same += ["early_stopping.metric=probe_accuracy", "early_stopping.mode=max"]
    run_pretrain("name=one", *same)
    run_on_ranks(2, "pretrain", config, "name=two", *same, cwd=tmp_path)
    one, two = monitored(tmp_path / "runs/one"), monitored(tmp_path / "runs/two")
    assert list(one) == list(two) == [1, 5, 6]
    for step, values in one.items():
        assert two[step]["held_out/loss"] == pytest.approx(values["held_out/loss"], rel=1e-3)
        assert two[step]["probe_accuracy"] == pytest.approx(values["probe_accuracy"], abs=0.03)


@pytest.mark.slow
def test_runs_end_early_by_what_is_monitored(
    run_pretrain: Command, shards: Path, tmp_path: Path
) -> None:
    # At a rate of almost 0 no value improves on the first by a tenth.
    end = ["optimizer.lr=1e-12", "early_stopping.min_change=0.1", "early_stopping.patience=2"]
    run_pretrain("early_stopping.metric=held_out/loss", *end, *options(shards)[2:], "steps=40")
    assert [*monitored(tmp_path / "runs/digits")] == [1, 5, 10]
    assert lines(tmp_path / "runs/digits")[-1]["step"] == 10


def test_the_probe_is_ridge_regression_with_its_best_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    features = torch.randn(60, 30, generator=generator)
    features[:, :4] += 1.5 * F.one_hot(torch.arange(60) % 4)
    found = ridge_logits(features[:40], labels, features[40:])

    x = features.double()
    x = (x - x[:40].mean(0)) / x[:40].std(0, correction=0)
    rows, targets = x[:40], F.one_hot(labels).double()
    center = targets.mean(0)
    length = rows.square().sum(1).mean()
    errors, predictions = [], []
    for strength in (1e-3, 1e-2, 1e-1, 1.0, 10.0):

        def fit(chosen: torch.Tensor, strength: float = strength) -> torch.Tensor:
            gram = rows[chosen].T @ rows[chosen] + strength * length * torch.eye(30)
            return torch.linalg.solve(gram, rows[chosen].T @ (targets[chosen] - center))

        everyone = torch.arange(40)
        error = 0.0
        for row in everyone:
            weight = fit(everyone[everyone != row])
            error += (targets[row] - center - rows[row] @ weight).square().sum().item()
        errors.append(error)
        predictions.append(x[40:] @ fit(everyone) + center)
    torch.testing.assert_close(found, predictions[int(np.argmin(errors))])
    assert int(np.argmin(errors)) > 0


def test_the_probe_reads_digits(run_pretrain: Command, shards: Path, tmp_path: Path) -> None:
    run_pretrain(*options(shards)[:3], "probe.labels=300", "steps=20")
    assert monitored(tmp_path / "runs/digits")[20]["probe_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.held_out=0.001"], ["data.held_out", "300 images"]),
        (["data.held_out=1"], ["data.held_out"]),
        (["probe.labels=301"], ["probe.labels: found 301", "300"]),
        (["early_stopping.metric=held_out/loss"], ["early_stopping.metric", "probe_accuracy"]),
        (["probe.shards=nowhere/*.tar"], ["nowhere/*.tar"]),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: list[str],
    words: list[str],
    config: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(config), *options(shards)[:2], *overrides]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()
