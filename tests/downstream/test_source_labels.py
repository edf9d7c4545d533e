"""A study of an encoder that was pretrained with labels says so where it speaks of pretraining."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.store import open_store
from downstream.config import CurveConfig
from downstream.methods_text import methods
from downstream.report_provenance import identity
from downstream.report_study import read_study
from downstream.source_labels import source_labels
from downstream.summary import write_summary
from downstream.train import train_classifier
from downstream.train_config import TrainConfig
from models.artifact import read_artifact
from tests.downstream.test_report import make_encoder, make_study

LABELLED = {
    "fingerprint": "f" * 64,
    "images": 28500,
    "labels": 30000,
    "label_sources": ["class labels of the shards (Bag, Coat)"],
}
BEFORE = {"sha256": "0" * 64, "objective": "supervised", "trained_on": LABELLED}
SAID = "30,000 labels: class labels of the shards (Bag, Coat)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished study of one encoder."""
    encoder = make_encoder(tmp_path / "runs/encoder", run=False)
    return make_study(tmp_path / "runs/study", [encoder], budgets=(50, 100), draws=2)


def told(folder: Path, trained_on: dict[str, Any]) -> dict[str, Any]:
    """Say that the encoder was trained on this; return the summary."""
    file = folder / "environment.json"
    environment = json.loads(file.read_text())
    environment["encoders"][0]["trained_on"] = trained_on
    file.write_text(json.dumps(environment))
    return write_summary(folder)


@pytest.mark.parametrize(
    "trained_on",
    [LABELLED, {"fingerprint": "e" * 64, "images": 9, "start": BEFORE}],
    ids=["its own", "of its start"],
)
def test_labels_of_pretraining_are_named(folder: Path, trained_on: dict[str, Any]) -> None:
    summary = told(folder, trained_on)
    sentence = f"No budget counts what pretraining learned from, {SAID}."
    assert sentence in summary["verdict"] and sentence in summary["notes"]
    config = CurveConfig.model_validate_json(json.dumps(load(folder)))
    paragraph = methods(config, summary["provenance"]).paragraph
    assert f"pretrained with {SAID}, on" in paragraph and "without labels" not in paragraph
    (*_, fact) = identity(read_study(folder), [type("Path", (), {"path": Path("e")})()])
    assert fact[1].endswith(f"with {SAID}")


def load(folder: Path) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return found


def test_test_images_seen_with_labels_are_not_called_unlabelled(folder: Path) -> None:
    summary = told(folder, LABELLED | {"fingerprint": "a" * 64})
    assert "in a pretraining that learned from labels: " in summary["verdict"]
    said = " ".join(note for notes in summary["arm_notes"].values() for note in notes)
    assert "pretraining has seen the test images, and learned from labels" in said
    assert "without labels" not in summary["verdict"] + said


def test_a_study_without_such_labels_says_nothing_of_them(folder: Path) -> None:
    summary = told(folder, {"fingerprint": "f" * 64, "images": 60000})
    assert "learned from" not in summary["verdict"]
    assert source_labels({"fingerprint": "f" * 64, "images": 60000}) is None


def test_a_classifiers_encoder_says_what_it_learned_from(
    digits: Path, encoders: list[Path], tmp_path: Path
) -> None:
    values = {
        "name": "full",
        "runs_dir": str(tmp_path / "runs"),
        "encoder": str(encoders[0]),
        "data": {"train": f"{digits}/train-*.tar", "test": None},
        "labels": 60,
        "mode": {"kind": "full"},
        "finetune": {"steps": 5, "head_steps": 2},
    }
    train_classifier(TrainConfig.model_validate(values), overwrite=False)
    header = read_artifact(tmp_path / "runs/full/encoder.safetensors")
    found = source_labels(header.trained_on.model_dump(mode="json"))
    assert found is not None and found.count == 60 and "labels of a classifier" in str(found)
    train_classifier(
        TrainConfig.model_validate({**values, "name": "frozen", "mode": {"kind": "frozen"}}),
        overwrite=False,
    )
    header = read_artifact(tmp_path / "runs/frozen/encoder.safetensors")
    assert source_labels(header.trained_on.model_dump(mode="json")) is None
    assert open_store(str(digits / "train-*.tar")).fingerprint == header.trained_on.fingerprint
