"""`python -m downstream predict`: a prediction for every image that can be used."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.store import open_store
from downstream.__main__ import main
from models.artifact import TrainedOn, load_encoder, read_artifact
from models.classifier_file import Calibration, load_classifier, save_classifier
from models.heads import Classifier
from tests.processes import ROOT, environment

CLASSES = tuple(f"digit {number}" for number in range(10))


@pytest.fixture
def model(encoders, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_classifier(
        path,
        Classifier(load_encoder(encoders[0]), 10, stages=["stage2"], grid=2, seed=1),
        encoder=read_artifact(encoders[0]),
        classes=CLASSES,
        calibration=Calibration(temperature=0.2, abstain_below={"0.95": 0.5}, labels=50),
        trained_on=TrainedOn(fingerprint="ab", images=50),
        config={},
        decisions={},
    )
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predicted(tmp_path: Path, *arguments: object) -> list[dict[str, str]]:
    out = tmp_path / "predictions.csv"
    assert main(["predict", *map(str, arguments), "--out", str(out), "--overwrite"]) == 0
    return table(out)


def test_shards_are_predicted_as_the_loaded_model_does(model, digits, tmp_path, capsys):
    rows = predicted(tmp_path, model, f"{digits}/test-*.tar")
    store = open_store(f"{digits}/test-*.tar")
    wanted = load_classifier(model).probabilities(store.images)
    assert [row["prediction"] for row in rows] == [CLASSES[i] for i in wanted.argmax(1)]
    found = torch.tensor([[float(row[name]) for name in CLASSES] for row in rows])
    assert torch.allclose(found, wanted, atol=1e-5)
    confidence = torch.tensor([float(row["confidence"]) for row in rows])
    assert torch.allclose(confidence, wanted.amax(1), atol=1e-5)
    assert f"{len(store)} predictions" in capsys.readouterr().out


def test_an_image_that_cannot_be_used_is_named_and_the_others_predicted(model, tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(grey).save(folder / "a.png")
    (folder / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    Image.fromarray(grey.repeat(2, 0).repeat(2, 1)).save(folder / "c.png")
    Image.fromarray(grey).save(folder / "d.png")
    (folder / "notes.txt").write_text("no image")
    rows = predicted(tmp_path, model, folder)
    assert [row["file"] for row in rows] == ["a.png", "b/broken.png", "c.png", "d.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[0]["prediction"] == rows[3]["prediction"] in CLASSES
    assert "1x32x32" in rows[2]["error"] and "1x16x16" in rows[2]["error"]
    warning = capsys.readouterr().err
    assert "2 of 4 images" in warning and "b/broken.png" in warning

    fitted = predicted(tmp_path, model, folder, "--fit")
    assert [bool(row["error"]) for row in fitted] == [False, True, False, False]


def test_it_abstains_where_it_is_not_sure_enough(model, digits, tmp_path):
    rows = predicted(tmp_path, model, f"{digits}/test-*.tar", "--accuracy", "0.95")
    for row in rows:
        assert (row["prediction"] == "?") == (float(row["confidence"]) < 0.5)
    assert 0 < sum(row["prediction"] == "?" for row in rows) < len(rows)


def test_what_cannot_be_read_does_not_end_it(model, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    for name in ("a.png", "c.png"):
        Image.fromarray(grey).save(folder / name)
    (folder / "b.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(folder / "b2.png")  # whoever opens it waits for a writer, for ever
    rows = predicted(tmp_path, model, folder)
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert "cannot be read" in rows[1]["error"]
    assert "2 of 4 images" in capsys.readouterr().err


def test_a_folder_for_the_predictions_is_made(model, digits, tmp_path):
    out = tmp_path / "deep" / "down" / "predictions.csv"
    assert main(["predict", str(model), f"{digits}/test-*.tar", "--out", str(out)]) == 0
    assert len(table(out)) == 597


def test_stopped_it_keeps_what_it_has(model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(photos / "0.png")
    for number in range(1, 6000):
        (photos / f"{number}.png").hardlink_to(photos / "0.png")
    out = tmp_path / "predictions.csv"
    command = [sys.executable, "-m", "downstream", "predict", str(model), str(photos)]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (out.exists() and out.stat().st_size > 10_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    rows = table(out)
    assert process.returncode == 0 and said.startswith("stopped early")
    assert 256 <= len(rows) < 6000 and f"{len(rows)} predictions" in said


def test_bad_input_is_told_in_one_line(model, encoders, digits, tmp_path, capsys):
    out = tmp_path / "predictions.csv"
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "notes").write_text("no folder")

    def refused(*arguments: object) -> str:
        assert main(["predict", "--out", str(out), *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no images found" in refused(model, empty)
    (tmp_path / "empty.tar").write_bytes(bytes(1024))
    assert "holds no images" in refused(model, tmp_path / "empty.tar")
    assert "not a trained classifier" in refused(encoders[0], empty)
    assert "folder" in refused(model, empty, "--out", empty, "--overwrite")
    assert "notes" in refused(model, f"{digits}/test-*.tar", "--out", tmp_path / "notes" / "a.csv")
    assert "--accuracy" in refused(model, f"{digits}/test-*.tar", "--accuracy", "0.5")
    assert not out.exists()
    out.write_text("precious")
    assert "--overwrite" in refused(model, f"{digits}/test-*.tar")
    assert out.read_text() == "precious"
