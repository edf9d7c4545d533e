"""`python -m downstream export`: the same probabilities in onnxruntime."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from data.store import open_store
from downstream.__main__ import main
from downstream.export import TOLERANCE, largest_difference
from models.classifier_file import load_classifier


@pytest.fixture(scope="module")
def exported(fitted, digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    arguments = ["--onnx", str(path), "--images", f"{digits}/test-*.tar"]
    assert main(["export", str(fitted), *arguments]) == 0
    return path


def test_any_number_of_images_gets_the_model_s_probabilities(exported, fitted, digits):
    images = open_store(f"{digits}/test-*.tar").images
    session = onnxruntime.InferenceSession(exported)
    model = load_classifier(fitted)
    for count in (1, 3, len(images)):
        (found,) = session.run(None, {"images": images[:count].numpy()})
        wanted = model.probabilities(images[:count]).numpy()
        assert found.shape == (count, 10)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_its_metadata_say_what_goes_in_and_what_comes_out(exported):
    stored = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map
    known = {key: json.loads(value) for key, value in stored.items()}
    assert known["underlayer.classes"] == [f"digit {label}" for label in range(10)]
    wanted = {"type": "uint8", "channels": 1, "height": 16, "width": 16, "value_range": [0, 255]}
    assert wanted.items() <= known["underlayer.input"].items()
    assert known["underlayer.calibration"]["temperature"] == 0.8


def test_floats_are_taken_where_asked_and_the_difference_is_told(fitted, digits, tmp_path, capsys):
    path = tmp_path / "float.onnx"
    assert main(["export", str(fitted), "--onnx", str(path), "--input", "float"]) == 0
    said = capsys.readouterr().out
    assert "64 random images" in said and "no real ones" in said
    images = open_store(f"{digits}/test-*.tar").images[:5]
    (found,) = onnxruntime.InferenceSession(path).run(
        None, {"images": images.numpy() / np.float32(255)}
    )
    np.testing.assert_allclose(found, load_classifier(fitted).probabilities(images), atol=1e-5)


def test_a_file_of_another_model_is_found_to_differ(exported, fitted, digits):
    images = open_store(f"{digits}/test-*.tar").images[:40].numpy()
    model = load_classifier(fitted)
    assert largest_difference(model, exported, images, "uint8") < TOLERANCE
    with torch.no_grad():
        model.classifier.head.linear.bias += torch.linspace(0, 1, 10)
    assert largest_difference(model, exported, images, "uint8") > TOLERANCE
    with torch.no_grad():
        model.classifier.head.linear.bias.fill_(torch.nan)
    assert not largest_difference(model, exported, images, "uint8") <= TOLERANCE


def test_bad_input_is_told_in_one_line(fitted_model, tmp_path, capsys):
    out = tmp_path / "model.onnx"

    def refused(*arguments: object) -> str:
        assert main(["export", str(fitted_model), "--onnx", str(out), *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "nowhere" in refused("--images", "nowhere/*.tar")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"nothing")
    assert "no image that the model could take" in refused("--images", tmp_path / "photos")
    assert not out.exists() and not list(tmp_path.glob(".*onnx*"))
    shutil.copy(fitted_model, out)
    assert "--overwrite" in refused()
