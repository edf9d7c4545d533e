"""Labels that are there with the images: where they are read from, and what cannot be learned."""

import importlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data.store import ResidentStore, open_store
from models.artifact import read_artifact
from pretrain.__main__ import main
from pretrain.config import PretrainConfig
from pretrain.learning_set import learning_set
from pretrain.run import make_trainer
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config
from training.errors import InputError

MODULE = """\
calls = 0

def brightness(image, key):
    global calls
    calls += 1
    image[:] = 0 if image.mean() < 0 else image
    return float(image.mean())

def side(image, key):
    return "left" if image[..., :8].sum() > image[..., 8:].sum() else "right"

def some(image, key):
    return int(image.max() > 250) if key.endswith(("1", "2", "3")) else None

def broken(image, key):
    return 1 / (len(key) - len(key)) if key.endswith("7") else 0

def bad_type(image, key):
    return [1, 2]

def endless(image, key):
    return float("nan")

def leaves(image, key):
    raise SystemExit(3)

def huge(image, key):
    return 1e308 * (-1) ** int(key[-1])

constant = 3

def same(image, key):
    return 4
"""


@pytest.fixture
def heuristics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the folder that the command is called in; its name."""
    name = f"heuristics_{zlib.crc32(tmp_path.name.encode())}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture(scope="module")
def store(shards: Path) -> ResidentStore:
    return open_store(str(shards / "train-*.tar"))


def config_of(shards: Path, labels: dict[str, Any], tmp_path: Path, **objective: Any) -> Any:
    values = {
        "name": "digits",
        "runs_dir": str(tmp_path / "runs"),
        "data": {"shards": str(shards / "train-*.tar"), "held_out": 0.1},
        "steps": 30,
        "batch_size": 32,
        "encoder": {"kind": "conv", "widths": [8, 16]},
        "objective": {"kind": "labels", "labels": labels, **objective},
    }
    return PretrainConfig.model_validate(values)


def function(name: str, **others: Any) -> dict[str, Any]:
    return {"source": {"kind": "function", "function": name}, **others}


def test_functions_are_asked_once_of_each_image(
    heuristics: str, shards: Path, store: ResidentStore, tmp_path: Path
) -> None:
    labels = {
        "bright": function(f"{heuristics}:brightness", kind="regression", weight=2),
        "side": function(f"{heuristics}:side"),
    }
    config = config_of(shards, labels, tmp_path)
    targets = learning_set(config, store).targets
    assert targets is not None and len(targets.rows) == 300
    bright, side = targets.each
    means = store.images.float().mean((1, 2, 3))
    expected = (means - means.mean()) / means.std(correction=0)
    torch.testing.assert_close(bright.values, expected)
    assert side.classes == ("left", "right")
    halves = store.images.float().unflatten(3, (2, 8)).sum((1, 2, 4))
    assert torch.equal(side.values, (halves[:, 0] <= halves[:, 1]).long())

    module = importlib.import_module(heuristics)
    assert module.calls == 300
    again = learning_set(config, store).targets
    assert again is not None and torch.equal(again.each[0].values, bright.values)
    assert module.calls == 300

    trainer = make_trainer(config, store, make_accelerator(ComputeConfig(), cpu=True))
    first, *_, last = (trainer.train_step(step) for step in range(30))
    assert set(first) >= {"bright/squared_error", "side/accuracy", "loss"}
    assert float(last["bright/squared_error"]) < 0.7 * float(first["bright/squared_error"])


def test_columns_of_files_shards_and_folders(
    shards: Path, store: ResidentStore, tmp_path: Path
) -> None:
    keys = store.keys
    with (tmp_path / "some.csv").open("w") as file:
        file.write("key,weight,colour\n")
        file.writelines(f"{key},{number},{number % 3}\n" for number, key in enumerate(keys[:200]))
        file.write(f"{keys[200]},200,\n")  # whose colour nobody knows
    (tmp_path / "all.json").write_text(json.dumps({key: len(key) + int(key[-1]) for key in keys}))
    column = {"kind": "column", "file": str(tmp_path / "some.csv")}
    labels = {
        "weight": {"source": {**column, "column": "weight"}, "kind": "regression"},
        "colour": {"source": {**column, "column": "colour"}},
        "last": {"source": {"kind": "column", "file": str(tmp_path / "all.json")}},
        "shard": {"source": {"kind": "shard"}},
    }
    config = config_of(shards, labels, tmp_path, on_missing="leave_out")
    targets = learning_set(config, store).targets
    assert targets is not None
    assert targets.rows.tolist() == list(range(200))
    assert targets.notes == ("100 of 300 images have no label and are left out",)
    by_name = {one.name: one for one in targets.each}
    assert by_name["colour"].classes == ("0", "1", "2")
    assert by_name["colour"].values[:6].tolist() == [0, 1, 2, 0, 1, 2]
    weights = np.arange(200)
    expected = (weights - weights.mean()) / weights.std()
    np.testing.assert_allclose(by_name["weight"].values[:200], expected, rtol=1e-5)
    assert by_name["shard"].classes == ("train-000000", "train-000001")
    assert by_name["shard"].values[:200].tolist() == [0] * 150 + [1] * 50
    lengths = [int(key[-1]) for key in keys[:200]]
    assert by_name["last"].values[:200].tolist() == lengths


def test_a_run_of_labels_resumes_exactly_and_says_what_it_read(
    heuristics: str,
    config: Path,
    train: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = yaml.safe_load(config.read_text())
    labels = {"some": function(f"{heuristics}:some"), "side": function(f"{heuristics}:side")}
    values["objective"] = {"kind": "labels", "labels": labels, "on_missing": "leave_out"}
    config.write_text(yaml.safe_dump(values))
    train("name=whole")
    said = capsys.readouterr().out
    assert "warning: 210 of 300 images have no label and are left out" in said
    assert "labels: 180\n" in said and "side_accuracy: 0." in said and "some_accuracy: 0." in said
    trained_on = read_artifact(tmp_path / "runs/whole/encoder.safetensors").trained_on.model_dump()
    assert trained_on["images"] == 90 and trained_on["labels"] == 180
    assert trained_on["label_sources"] == [
        f"side (function {heuristics}:side)",
        f"some (function {heuristics}:some)",
    ]
    train("name=killed")
    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    train("name=killed", resume=True)
    assert_same_weights(tmp_path / "runs/whole", tmp_path / "runs/killed")

    (tmp_path / "runs/killed/checkpoints/LATEST").write_text("step-00000008\n")
    module = tmp_path / f"{heuristics}.py"
    module.write_text(
        MODULE.replace('"left" if', '"right" if').replace('e "right"', 'e "left"') + "# 2\n"
    )
    monkeypatch.delitem(sys.modules, heuristics)  # as in a new process
    with pytest.raises(
        InputError, match=r"environment.json: data.labels_sha256 has other content now"
    ):
        train("name=killed", resume=True)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (function("nowhere_at_all:f"), ["labels.a", "nowhere_at_all", "imported"]),
        (function("MODULE:missing"), ["has no function missing"]),
        (function("time:time"), ["time:time", "no source file"]),
        (function("MODULE:constant"), ["has no function constant"]),
        (function("MODULE:broken"), ["raised ZeroDivisionError", "sample train-0000007"]),
        (function("MODULE:bad_type"), ["returned list", "sample train-0000000"]),
        (function("MODULE:leaves"), ["raised SystemExit", "sample train-0000000"]),
        (function("MODULE:huge", kind="regression"), ["labels.a", "too far apart"]),
        (function("MODULE:endless"), ["returned nan", "sample train-0000000"]),
        (function("MODULE:same"), ["all 300 images", "'4'", "nothing to tell apart"]),
        (function("MODULE:same", kind="regression"), ["all 300 images", "4", "nothing to learn"]),
        (function("MODULE:side", kind="regression"), ["'left'", "train-0000000", "no finite"]),
        (function("MODULE:some"), ["210 of 300", "first key: train-0000000", "on_missing"]),
        ({"source": {"kind": "column", "file": "no.csv"}}, ["no.csv", "no such file"]),
        ({"source": {"kind": "column", "file": "no.json"}}, ["labels.a.source.file", "no.json"]),
        ({"source": {"kind": "column", "file": "k.csv"}}, ["source.column", "one, two"]),
        (
            {"source": {"kind": "column", "file": "k.csv", "column": "three"}},
            ["source.column", "'three'", "one, two"],
        ),
        ({"source": {"kind": "column", "file": "n.json"}}, ["n.json", "NaN", "train-0000001"]),
        (
            {"source": {"kind": "column", "file": "n.json", "column": "hour"}},
            ["source.column", "'hour'", "one value", "train-0000000"],
        ),
        ({"source": {"kind": "folder"}}, ["labels.a.source", "in a folder", "train-0000000"]),
    ],
)
def test_labels_that_cannot_be_learned_are_told_in_one_line(
    label: dict[str, Any],
    words: list[str],
    heuristics: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "k.csv").write_text("key,one,two\ntrain-0000000,1,2\n")
    (tmp_path / "n.json").write_text('{"train-0000000": 1, "train-0000001": NaN}')
    values = yaml.safe_load(config.read_text())
    text = yaml.safe_dump({"kind": "labels", "labels": {"a": label}})
    values["objective"] = yaml.safe_load(text.replace("MODULE", heuristics))
    config.write_text(yaml.safe_dump(values))
    assert main([str(config)]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "runs/digits").exists()


def test_a_label_has_a_name_of_its_own_in_a_batch(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(config.read_text())
    values["objective"] = {"kind": "labels", "labels": {"images": {"source": {"kind": "shard"}}}}
    config.write_text(yaml.safe_dump(values))
    assert main([str(config)]) == 2
    assert_one_line(capsys.readouterr().err, "objective", "called images")


def test_the_kind_of_a_label_changes_nothing_else(config: Path) -> None:
    values = yaml.safe_load(config.read_text())
    label = {"source": {"kind": "column", "file": "photos.csv"}, "weight": 0.5}
    values["objective"] = {"kind": "labels", "labels": {"hour": label}}
    config.write_text(yaml.safe_dump(values))
    changed = load_config(PretrainConfig, config, ["objective.labels.hour.kind=regression"])
    hour = changed.objective.labels["hour"]  # type: ignore[union-attr]
    assert (hour.kind, hour.weight, hour.source.file) == ("regression", 0.5, "photos.csv")


def test_a_mistake_beside_a_key_that_is_called_as_its_kind_is_told_by_its_own_key(
    config: Path,
) -> None:
    shard = {"a": {"source": {"kind": "shard"}}}
    for objective, key in (
        ({"kind": "labels", "labels": shard, "on_missing": "skip"}, "objective.on_missing: found"),
        ({"kind": "clusters", "clusters": 10, "every_epochs": 0}, "objective.every_epochs: found"),
        ({"kind": "clusters", "clusters": 10, "foo": 0}, "objective.foo: unknown key; known"),
    ):
        values = yaml.safe_load(config.read_text()) | {"objective": objective}
        config.write_text(yaml.safe_dump(values))
        with pytest.raises(InputError, match=key):
            load_config(PretrainConfig, config)
