"""`python -m downstream train`: outputs, heads, class weights and copies, and bad labels."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.pack import pack
from data.store import open_store
from downstream.__main__ import main
from models.artifact import load_encoder
from models.classifier_file import load_classifier
from models.errors import ModelError


@pytest.fixture
def config(digits, encoders, tmp_path):
    """Return a function that writes a small training's config, changed as asked, and its path."""

    def write(**changes) -> Path:
        values = {
            "name": "train",
            "runs_dir": str(tmp_path / "runs"),
            "encoder": str(encoders[0]),
            "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
            "labels": 150,
            "mode": {"kind": "frozen"},
            "validation": {"folds": 2},
            "features": {"grid": 2},
            "finetune": {"steps": 20, "batch_size": 16},
            **changes,
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def trained(path: Path, *overrides: str) -> tuple[Path, dict[str, float]]:
    assert main(["train", str(path), *overrides, "--overwrite"]) == 0
    values = yaml.safe_load(path.read_text())
    folder = Path(values["runs_dir"], values["name"])
    return folder / "model.safetensors", json.loads((folder / "metrics.json").read_text())


def refused(capsys, path: Path, *overrides: str) -> str:
    """The one line with which a training is refused; no folder is made."""
    capsys.readouterr()
    assert main(["train", str(path), *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not Path(yaml.safe_load(path.read_text())["runs_dir"]).exists()
    return line


@pytest.fixture
def label_file(digits, tmp_path):
    """Return a function that writes labels of digits made by a rule, and the CSV file's path."""
    stores = [open_store(f"{digits}/{split}-*.tar") for split in ("train", "test")]

    def write(columns: str, rule, *, only=slice(None)) -> Path:
        path = tmp_path / "labels.csv"
        lines = [
            f"{key},{','.join(map(str, rule(int(digit))))}"
            for store in stores
            for key, digit in zip(store.keys[only], store.labels[only], strict=True)
        ]
        path.write_text("\n".join([f"key,{columns}", *lines]) + "\n")
        return path

    return write


def with_labels(digits, path: Path) -> dict[str, str]:
    return {
        "train": f"{digits}/train-*.tar",
        "test": f"{digits}/test-*.tar",
        "labels": str(path),
    }


def table(model: Path, images: str, out: Path) -> list[dict[str, str]]:
    assert main(["predict", str(model), images, "--out", str(out), "--overwrite"]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


HEADS = {
    "mlp": "{kind: mlp, hidden: 32, steps: 60, folds: 2, evaluations: 2}",
    "attention": "{kind: attention, steps: 60, lr: 2e-2, queries: 4, grid: 4, folds: 2}",
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_as_a_head_is_kept_and_predicts_as_it_was_scored(config, digits, tmp_path, kind):
    model, scores = trained(config(), f"head={HEADS[kind]}")
    assert scores["accuracy"] > 0.6
    rows = table(model, f"{digits}/test-*.tar", tmp_path / "out.csv")
    labels = open_store(f"{digits}/test-*.tar").labels.tolist()
    right = [row["prediction"] == str(label) for row, label in zip(rows, labels, strict=True)]
    assert np.mean(right) == pytest.approx(scores["accuracy"], abs=1e-6)
    assert load_classifier(model).header.head.network.kind == kind


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_as_a_head_is_trained_on_with_the_encoder(config, encoders, kind):
    model, _ = trained(config(), f"head={HEADS[kind]}", "mode={kind: full}")
    kept = load_classifier(model).classifier
    assert kept.network.kind == kind
    before = load_encoder(encoders[0]).blocks.state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in kept.encoder.blocks.state_dict().items())


def test_new_stages_are_trained_on_frozen_ones(config, encoders):
    model, scores = trained(
        config(features={"stages": ["stage1"]}, finetune={"steps": 60, "batch_size": 32}),
        "mode={kind: extend, widths: [24, 32]}",
    )
    kept = load_classifier(model).classifier
    before = load_encoder(encoders[0]).state_dict()
    assert all(torch.equal(v, before[k]) for k, v in kept.encoder.state_dict().items())
    assert kept.head.linear.in_features == 32 * 2 * 2  # 16 x 16 pixels, halved three times
    assert scores["accuracy"] > 0.5


def test_two_classes_have_a_single_logit(config, digits, label_file):
    path = config(
        data=with_labels(digits, label_file("label", lambda d: ["odd" if d % 2 else "even"]))
    )
    for overrides in (
        [],
        ["mode={kind: full}"],
        ["head={kind: mlp, hidden: 8, steps: 30, folds: 2}"],
    ):
        model_path, scores = trained(path, *overrides)
        model = load_classifier(model_path)
        assert model.classes == ("even", "odd")
        assert model.classifier.head.linear.out_features == 1
        probabilities = model.probabilities(open_store(f"{digits}/test-*.tar").images)
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(597))
        assert scores["accuracy"] > (0.8 if not overrides else 0.5)


@pytest.mark.parametrize("head", [None, "attention"])
def test_several_labels_at_once(config, digits, label_file, tmp_path, head):
    path = config(
        data=with_labels(digits, label_file("odd,large", lambda d: [d % 2, int(d > 4)])),
        task="multi_label",
    )
    model, scores = trained(path, *([f"head={HEADS[head]}"] if head else []))
    assert scores["map"] > 0.8 and scores["accuracy"] > 0.6
    rows = table(model, f"{digits}/test-*.tar", tmp_path / "out.csv")
    assert {row["prediction"] for row in rows} == {"", "odd", "large", "odd;large"}
    for row in rows:
        said = {n for n in ("odd", "large") if float(row[n]) >= 0.5}
        assert said == set(filter(None, row["prediction"].split(";")))


@pytest.mark.parametrize("head", [None, "mlp"])
def test_quantities_come_back_in_their_own_units(config, digits, label_file, tmp_path, head):
    path = config(
        data=with_labels(digits, label_file("size,weight", lambda d: [1000 + 10 * d, -d])),
        task="regression",
        mode={"kind": "linear_then_finetune"},
        unfreeze={"steps": 5, "batch_size": 16, "lr": 1e-4},
    )
    model, scores = trained(path, *([f"head={HEADS[head]}"] if head else []))
    assert scores["r2"] > 0.1
    rows = table(model, f"{digits}/test-*.tar", tmp_path / "out.csv")
    digit = open_store(f"{digits}/test-*.tar").labels.numpy()
    sizes = np.array([float(row["size"]) for row in rows])
    assert np.corrcoef(sizes, digit)[0, 1] > 0.4 and 990 < sizes.mean() < 1100
    assert all(row["confidence"] == "" for row in rows)
    assert float(rows[0]["prediction"].split(";")[1]) == pytest.approx(
        float(rows[0]["weight"]), 1e-3
    )
    with pytest.raises(ModelError, match="no probabilities"):
        load_classifier(model).probabilities(open_store(f"{digits}/test-*.tar").images[:1])


def test_automatic_reuse_decides_by_the_loss_where_no_class_is_named(config, digits, label_file):
    path = config(
        data=with_labels(digits, label_file("size", lambda d: [d])),
        task="regression",
        labels=60,
        mode={"kind": "auto"},
        unfreeze={"steps": 5, "batch_size": 16},
    )
    model, _ = trained(path)
    tried = [json.loads(s) for s in (model.parent / "decisions.jsonl").read_text().splitlines()]
    assert all(d["accuracy"] is None for d in tried)
    assert tried[1]["gain"] == pytest.approx(tried[0]["nll"] - tried[1]["nll"], abs=1e-6)


def test_images_without_a_line_have_no_label(config, digits, label_file, capsys):
    labels = label_file("label", lambda d: [d], only=slice(0, 150))
    path = config(data=with_labels(digits, labels), labels=None)
    model, _ = trained(path)
    assert load_classifier(model).header.trained_on.images == 150
    assert "150 labels of 10 classes" in capsys.readouterr().out
    assert "150" in refused_after(capsys, path, "labels=151")


def refused_after(capsys, path: Path, *overrides: str) -> str:
    capsys.readouterr()
    assert main(["train", str(path), *overrides, "--overwrite"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def rare_labels(tmp_path: Path, digits: Path, counts: dict[int, int]) -> Path:
    """Pack digits of which there are so many of each class, and a test set of the same classes."""
    store, test = (open_store(f"{digits}/{split}-*.tar") for split in ("train", "test"))
    rows = np.concatenate(
        [np.flatnonzero(store.labels.numpy() == c)[:count] for c, count in counts.items()]
    )
    tested = np.flatnonzero(np.isin(test.labels.numpy(), list(counts)))
    number = {c: place for place, c in enumerate(counts)}
    arrays = {
        "x_train": store.images[rows, 0].numpy(),
        "y_train": np.array([number[c] for c in store.labels[rows].tolist()]),
        "x_test": test.images[tested, 0].numpy(),
        "y_test": np.array([number[c] for c in test.labels[tested].tolist()]),
    }
    np.savez(tmp_path / "rare.npz", **arrays)
    pack(str(tmp_path / "rare.npz"), tmp_path / "rare")
    return tmp_path / "rare"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["head={kind: mlp, hidden: 16, steps: 40, folds: 2}"],
        ["mode={kind: scratch}", "finetune.steps=60"],
    ],
)
def test_balanced_classes_find_more_of_a_rare_class(config, digits, tmp_path, overrides):
    rare = rare_labels(tmp_path, digits, {8: 100, 3: 8})
    data = {"train": f"{rare}/train-*.tar", "test": f"{rare}/test-*.tar"}
    path = config(data=data, labels=None, features={"stages": ["stage1"], "grid": 1})
    test = open_store(data["test"])
    found = {}
    for weights in ("null", "balanced"):
        model, _ = trained(path, f"class_weights={weights}", *overrides)
        predicted = load_classifier(model).probabilities(test.images).argmax(dim=1)
        found[weights] = float((predicted[test.labels == 1] == 1).float().mean())
    assert found["balanced"] > found["null"] + 0.05, found


def test_a_class_with_one_label_is_learnt_and_named(config, digits, tmp_path, capsys):
    rare = rare_labels(tmp_path, digits, {0: 30, 1: 30, 4: 1})
    data = {"train": f"{rare}/train-*.tar", "test": f"{rare}/test-*.tar"}
    heads = ["softmax", "logistic", "ridge", "svm", "discriminant", "prototypes", "mlp"]
    for kind in heads:
        short = ", hidden: 16, steps: 40" if kind == "mlp" else ""
        _, scores = trained(config(data=data, labels=None), f"head={{kind: {kind}{short}}}")
        assert scores["accuracy"] > 0.5, kind
        assert "class 2 has one label" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["softmax", "ridge"])
def test_copies_help_where_test_images_lie_elsewhere(config, digits, tmp_path, kind):
    """Copies moved by up to a sixth of the image teach a head that digits may lie elsewhere."""
    path = config(labels=60, features={"grid": 4})
    moved = open_store(f"{digits}/test-*.tar")
    images = torch.roll(moved.images, 2, dims=3)
    right = {}
    for copies in (0, 4):
        model, _ = trained(
            path,
            f"features.copies={copies}",
            "features.augment={horizontal_flip: false, shift: 0.15}",
            f"head={{kind: {kind}}}",
        )
        probabilities = load_classifier(model).probabilities(images)
        right[copies] = float((probabilities.argmax(dim=1) == moved.labels).float().mean())
    assert right[4] > right[0] + 0.05, right


BAD_TABLES = {
    "no column key": ("name,label\na,b\n", ["line 1", "name,label"]),
    "unknown key": ("key,label\nnowhere,3\n", ["line 2", "nowhere"]),
    "key twice": ("key,label\n{0},3\n{1},2\n{0},3\n", ["line 4", "line 2", "{0}"]),
    "empty cell": ("key,label\n{0},\n", ["line 2", "{0}", "label"]),
    "missing cell": ("key,label\n{0}\n", ["line 2", "1 cells"]),
    "no line": ("key,label\n", ["no line"]),
    "one class": ("key,label\n{0},3\n{1},3\n", ["all 2 labels are 3"]),
    "several columns": ("key,a,b\n{0},1,0\n", ["a, b", "multi_label"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_file_of_labels_is_told_in_one_line(config, digits, tmp_path, capsys, name):
    text, words = BAD_TABLES[name]
    keys = open_store(f"{digits}/train-*.tar").keys
    path = tmp_path / "labels.csv"
    path.write_text(text.format(*keys[:2]))
    data = {"train": f"{digits}/train-*.tar", "labels": str(path)}
    line = refused(capsys, config(data=data, labels=None))
    assert all(word.format(*keys) in line for word in words), line


@pytest.mark.parametrize(
    ("task", "cells", "words"),
    [
        ("multi_label", ("1", "2"), ["line 3", "'2'", "neither 0 nor 1"]),
        ("multi_label", ("1", "1"), ["column x", "all 2 labels"]),
        ("regression", ("1.5", "wide"), ["line 3", "'wide'", "no finite number"]),
        ("regression", ("1.5", "nan"), ["line 3", "'nan'", "no finite number"]),
        ("regression", ("7", "7"), ["column x", "are 7"]),
    ],
)
def test_bad_labels_are_told_in_one_line(config, digits, tmp_path, capsys, task, cells, words):
    keys = open_store(f"{digits}/train-*.tar").keys
    path = tmp_path / "labels.csv"
    path.write_text(f"key,x\n{keys[0]},{cells[0]}\n{keys[1]},{cells[1]}\n")
    data = {"train": f"{digits}/train-*.tar", "labels": str(path)}
    line = refused(capsys, config(data=data, labels=None, task=task))
    assert all(word in line for word in words), line


def test_classes_that_a_set_does_not_have_are_named(config, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (20, 16, 16), np.uint8)
    labels = np.arange(20) % 2
    np.savez(tmp_path / "two.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    pack(str(tmp_path / "two.npz"), tmp_path / "two")
    info = json.loads((tmp_path / "two" / "dataset.json").read_text())
    info["classes"] = ["cat", "dog"]
    (tmp_path / "two" / "dataset.json").write_text(json.dumps(info))
    keys = open_store(f"{tmp_path}/two/train-*.tar").keys
    path = tmp_path / "labels.csv"
    path.write_text(f"key,label\n{keys[0]},cat\n{keys[1]},horse\n")
    data = {"train": f"{tmp_path}/two/train-*.tar", "labels": str(path)}
    line = refused(capsys, config(data=data, labels=None))
    assert "line 3" in line and "'horse'" in line and "cat, dog" in line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["head={kind: neighbours}"], ["head", "neighbours", "softmax"]),
        (["head={kind: prototypes, distance: cosine}"], ["head", "cosine", "euclidean"]),
        (["task=regression"], ["regression", "data.labels"]),
        (
            ["task=regression", "data.labels=x.csv", "head={kind: svm}"],
            ["head.kind", "svm", "ridge"],
        ),
        (["task=multi_label", "data.labels=x.csv", "class_weights=balanced"], ["class_weights"]),
        (["class_weights=balanced", "head={kind: ridge}"], ["ridge", "class_weights"]),
        (["features={copies: 2, augment: {horizontal_flip: false, shift: 0}}"], ["copies 2"]),
        (["data.labels=nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["data.size=8"], ["data.train", "1x16x16", "1x8x8"]),
        (["data.channels=3"], ["data.train", "1x16x16", "3x16x16"]),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(
    config, capsys, overrides, words
):
    line = refused(capsys, config(), *overrides)
    assert all(word in line for word in words), line
