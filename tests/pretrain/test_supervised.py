"""Pretraining on the classes of a similar task, and that nothing else reads labels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data.pack import pack
from data.reading import open_images
from data.store import ResidentStore, open_store
from models.artifact import read_artifact
from pretrain.__main__ import main
from pretrain.config import PretrainConfig
from pretrain.held_out import HeldOutLoss
from pretrain.learning_set import learning_set
from pretrain.run import make_trainer
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws

SUPERVISED = "objective={kind: supervised}"


@pytest.fixture(scope="module")
def store(shards: Path) -> ResidentStore:
    return open_store(str(shards / "train-*.tar"))


def config_of(shards: Path, objective: dict[str, Any], **others: Any) -> PretrainConfig:
    values = {
        "name": "digits",
        "data": {"shards": str(shards / "train-*.tar"), "held_out": 0.2},
        "steps": 60,
        "batch_size": 32,
        "encoder": {"kind": "conv", "widths": [8, 16]},
        "objective": {"kind": "supervised", **objective},
    }
    return PretrainConfig.model_validate(values | others)


def trainer_of(config: PretrainConfig, store: ResidentStore) -> Trainer:
    return make_trainer(config, store, make_accelerator(ComputeConfig(), cpu=True))


def test_classes_are_learned_and_told_of_new_images(shards: Path, store: ResidentStore) -> None:
    config = config_of(shards, {"label_smoothing": 0.1, "augment": {"shift": 0.0}, "grid": 4})
    trainer = trainer_of(config, store)
    learned = learning_set(config, store)
    measure = HeldOutLoss(
        trainer,
        store.images,
        learned.held_out,
        trained=learned.trained,
        targets=learned.targets,
    )
    assert "held_out/accuracy" in measure.names
    for step in range(60):
        trainer.train_step(step)
    trainer.trainable.eval()
    with torch.no_grad():
        assert measure(60, trainer.trainable)["held_out/accuracy"] > 0.7


@pytest.mark.parametrize("mode", ["resident", "indexed"])
def test_a_subset_of_classes_leaves_the_others_images_out(
    mode: str, shards: Path, store: ResidentStore
) -> None:
    config = config_of(shards, {"classes": [7, 1, 4]})
    config = config.model_copy(update={"data": config.data.model_copy(update={"mode": mode})})
    opened = open_images(config.data, config.data.shards, config.data.mode)
    learned = learning_set(config, opened)
    trainer = make_trainer(config, opened, make_accelerator(ComputeConfig(), cpu=True))
    assert store.labels is not None
    numbers = store.labels.numpy()
    wanted = np.flatnonzero(np.isin(numbers, [1, 4, 7]))
    assert sorted([*learned.trained, *learned.held_out]) == wanted.tolist()
    assert learned.targets is not None and learned.targets.each[0].classes == ("1", "4", "7")
    of_image = {store.images[row].numpy().tobytes(): numbers[row] for row in wanted}
    for step in (0, 5):
        batch = trainer.batches.batch(step, 3, 30)
        shown = [of_image[image.numpy().tobytes()] for image in batch["images"]]
        assert [(1, 4, 7)[place] for place in batch["class"]] == shown


def test_micro_batches_give_the_loss_of_the_whole(shards: Path, store: ResidentStore) -> None:
    config = config_of(shards, {}, encoder={"kind": "conv", "widths": [8], "norm": "layer"})
    trainer = trainer_of(config, store)
    losses = []
    for start, stop in ((0, 32), (0, 16), (16, 32)):
        batch = trainer.batches.batch(2, start, stop)
        draws = StepDraws(0, 2, torch.device("cpu"), 32, start, stop)
        losses.append(trainer.trainable("labels", batch, draws)[0].item())
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)


def test_a_run_says_how_many_labels_it_read_and_resumes_exactly(
    train: Callable[..., None], tmp_path: Path, store: ResidentStore
) -> None:
    how = ["objective={kind: supervised, classes: [0, 1, 2, 3, 4]}", "data.held_out=0.1"]
    train("name=whole", *how)
    run = tmp_path / "runs/whole"
    assert store.labels is not None
    count = int((store.labels < 5).sum())
    trained_on = read_artifact(run / "encoder.safetensors").trained_on.model_dump()
    assert trained_on["labels"] == count and trained_on["images"] == count - round(0.1 * count)
    assert trained_on["label_sources"] == ["class labels of the shards (0, 1, 2, 3, 4)"]
    assert json.loads((run / "environment.json").read_text())["data"]["labels"] == count
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["held_out/accuracy"] <= 1 and last["step"] == 12

    # As a kill after step 8 leaves a run.
    train("name=killed", *how)
    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    train("name=killed", *how, resume=True)
    assert_same_weights(run, tmp_path / "runs/killed")


def test_other_objectives_read_no_labels(
    train: Callable[..., None], tmp_path: Path, store: ResidentStore
) -> None:
    np.savez(tmp_path / "plain.npz", images=store.images[:, 0].numpy())
    pack(tmp_path / "plain.npz", tmp_path / "plain")
    train("name=labelled", "steps=4")
    train("name=plain", "steps=4", "data.shards=plain/train-*.tar")
    assert_same_weights(tmp_path / "runs/labelled", tmp_path / "runs/plain")
    header = read_artifact(tmp_path / "runs/labelled/encoder.safetensors")
    assert "labels" not in header.trained_on.model_dump()
    with pytest.raises(InputError, match=r"objective.kind: .*300 of 300 samples.* no label"):
        train("name=none", SUPERVISED, "data.shards=plain/train-*.tar")


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"classes": [3, 11]}, ["objective.classes", "11", "9 (9)"]),
        ({"classes": ["3", "cat"]}, ["objective.classes", "'cat'"]),
        ({"classes": [3, "3"]}, ["objective.classes", "once"]),
        ({"classes": [3]}, ["objective.classes"]),
        ({"label_smoothing": 1.5}, ["objective.label_smoothing", "1.5"]),
    ],
)
def test_bad_classes_are_told_in_one_line(
    objective: dict[str, Any],
    words: list[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(config.read_text()) | {"objective": {"kind": "supervised", **objective}}
    config.write_text(yaml.safe_dump(values))
    assert main([str(config)]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs").exists()
