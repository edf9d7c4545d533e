"""`python -m downstream train`: how an encoder is reused is decided inside the labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.store import open_store
from downstream.__main__ import main
from models.artifact import load_encoder
from models.classifier_file import load_classifier, read_classifier


@pytest.fixture
def config(digits, encoders, tmp_path):
    """Return a function that writes a small training's config, changed as asked, and its path."""

    def write(**changes) -> Path:
        values = {
            "name": "train",
            "runs_dir": str(tmp_path / "runs"),
            "encoder": str(encoders[0]),
            "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
            "labels": 100,
            "features": {"grid": 2},
            "head": {"kind": "softmax", "steps": 40},
            "unfreeze": {"steps": 10, "batch_size": 16, "lr": 1e-3},
            "finetune": {"steps": 10, "batch_size": 16, "head_steps": 5},
            **changes,
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def trained(path: Path, *overrides: str) -> Path:
    assert main(["train", str(path), *overrides, "--overwrite"]) == 0
    values = yaml.safe_load(path.read_text())
    return Path(values["runs_dir"], values["name"], "model.safetensors")


def moved(model: Path, encoder: Path) -> dict[str, bool]:
    """Whether each stage's weights are others than those of the pretrained encoder."""
    before = load_encoder(encoder).blocks
    after = load_classifier(model).classifier.encoder.blocks
    return {
        name: any(
            not torch.equal(value, after[name].state_dict()[key])
            for key, value in before[name].state_dict().items()
        )
        for name in before
    }


@pytest.mark.parametrize(
    ("mode", "stage1", "stage2"),
    [
        ("{kind: frozen}", False, False),
        ("{kind: partial, from_stage: stage2}", False, True),
        ("{kind: full}", True, True),
        ("{kind: linear_then_finetune}", True, True),
        ("{kind: fixmatch, steps: 5}", True, True),
        ("{kind: mean_teacher, steps: 5}", True, True),
        ("{kind: replace, from_stage: stage2}", False, True),
        ("{kind: scratch}", True, True),
    ],
)
def test_a_mode_trains_its_stages_and_no_others(config, encoders, mode, stage1, stage2):
    model = trained(config(), f"mode={mode}")
    assert moved(model, encoders[0]) == {"stage1": stage1, "stage2": stage2}


@pytest.mark.slow
def test_its_stages_are_an_encoder_for_another_task(config, study, tmp_path):
    model = trained(config(), "mode={kind: full}")
    source = model.parent / "encoder.safetensors"
    kept = load_classifier(model).classifier.encoder.state_dict()
    encoder = load_encoder(source)
    assert all(torch.equal(value, kept[key]) for key, value in encoder.state_dict().items())
    path = study(encoder=str(source), arms=["frozen", "random_frozen"], budgets=[20])
    assert main(["curve", str(path)]) == 0
    assert (tmp_path / "runs/study/report.html").is_file()


def test_a_kept_model_scores_on_the_test_set_as_was_said(config, digits, capsys):
    model_path = trained(config(labels=300), "mode={kind: frozen}")
    said = json.loads((model_path.parent / "metrics.json").read_text())
    model = load_classifier(model_path)
    test = open_store(f"{digits}/test-*.tar")
    right = model.probabilities(test.images).argmax(dim=1) == test.labels
    assert float(right.float().mean()) == pytest.approx(said["accuracy"], abs=1e-6)
    assert said["accuracy"] > 0.8
    assert f"test: {100 * said['accuracy']:.1f} %" in capsys.readouterr().out
    header = read_classifier(model_path)
    assert header.trained_on.images == 300
    assert header.calibration.labels == 300 and header.calibration.temperature != 1


def test_pseudo_labels_of_all_training_images_make_a_kept_model(config, tmp_path, capsys):
    accuracies = {}
    for head in ("softmax", "pseudo_labels"):
        model = trained(config(labels=20), "mode={kind: frozen}", f"head={{kind: {head}}}")
        accuracies[head] = json.loads((model.parent / "metrics.json").read_text())["accuracy"]
    assert accuracies["pseudo_labels"] > accuracies["softmax"] + 0.01
    for head in ("smoothed", "label_propagation", "poisson"):
        capsys.readouterr()
        assert main(["train", str(config(name=head)), f"head={{kind: {head}}}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "head" in line and head in line and "pseudo_labels" in line
        assert not (tmp_path / "runs" / head).exists()


def kind_of(attempt: str) -> int:
    """0 for fewer frozen stages than two, 2 where stages are unfrozen, 1 else."""
    return 0 if attempt == "frozen up to stage1" else 2 if attempt.startswith("unfrozen") else 1


@pytest.mark.parametrize("labels", [60, 100, 300])
def test_automatic_reuse_prefers_to_unfreeze_and_tells_every_comparison(config, capsys, labels):
    model = trained(config(labels=labels), "mode={kind: auto}")
    tried = [json.loads(s) for s in (model.parent / "decisions.jsonl").read_text().splitlines()]
    assert [d["attempt"] for d in tried][:2] == ["frozen", "unfrozen from stage2"]
    assert "all stages trained" in [d["attempt"] for d in tried]
    best = tried[0]
    for found in tried[1:]:
        # To unfrozen stages unless they are clearly worse, from them or to fewer frozen ones only
        # where that is clearly better.
        order = [kind_of(one["attempt"]) for one in (best, found)]
        margin = {True: -found["error"], False: found["error"]}[order[1] > order[0]]
        assert found["kept"] == (found["gain"] > (margin if order[0] != order[1] else 0))
        best = found if found["kept"] else best
    assert read_classifier(model).decisions["taken"] == best["attempt"]
    shown = capsys.readouterr().out
    assert all(d["attempt"] in shown for d in tried) and f"taken: {best['attempt']}" in shown


def test_choices_do_not_look_at_the_test_set(config, digits, encoders, tmp_path):
    """The same model comes of a test set whose labels are wrong, and of none."""
    first = trained(config()).read_bytes()
    without = {"train": f"{digits}/train-*.tar"}
    path = config(data=without)
    again = load_classifier(trained(path))
    (tmp_path / "first.safetensors").write_bytes(first)
    for name, value in load_classifier(tmp_path / "first.safetensors").state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_with_a_label_for_each_class_it_stays_with_frozen_stages(config, encoders):
    model = trained(config(labels=10))
    assert moved(model, encoders[0]) == {"stage1": False, "stage2": False}
    assert read_classifier(model).calibration.labels == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["labels=5"], ["labels", "5", "10 classes"]),
        (["labels=9999"], ["labels", "9999", "1200"]),
        (["mode={kind: partial, from_stage: stage7}"], ["mode.from_stage", "stage7", "stage2"]),
        (["mode={kind: sideways}"], ["mode", "sideways", "frozen"]),
        (["encoder=nowhere.safetensors"], ["nowhere.safetensors", "does not exist"]),
        (["data.test=nowhere/*.tar"], ["nowhere"]),
        (["features.transform=whiten"], ["features", "transform whiten", "none"]),
    ],
)
def test_bad_input_is_told_in_one_line(config, capsys, overrides, words):
    path = config()
    assert main(["train", str(path), *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not Path(yaml.safe_load(path.read_text())["runs_dir"], "train").exists()


def test_labels_of_a_single_class_are_refused(config, tmp_path, capsys):
    from data.pack import pack

    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16), np.uint8)
    labels = np.zeros(20, np.int64)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    pack(str(tmp_path / "one.npz"), tmp_path / "one")
    path = config(data={"train": f"{tmp_path}/one/train-*.tar"}, labels=None)
    assert main(["train", str(path)]) == 2
    assert "nothing to tell apart" in capsys.readouterr().err
