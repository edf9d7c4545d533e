"""`python -m downstream evaluate` of models of several labels, and of quantities."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, r2_score

from data.store import open_store
from downstream.__main__ import main
from models.artifact import TrainedOn, load_encoder, read_artifact
from models.classifier_file import Calibration, load_classifier, save_classifier
from models.heads import Classifier
from models.outputs import MultiLabel, Regression
from tests.html_pages import Page, assert_needs_no_network

NAMES = ("odd", "large")


@pytest.fixture
def model_of(encoders, tmp_path):
    """Return a function that keeps an untrained model of an output, and its path."""

    def save(output) -> Path:
        path = tmp_path / "model.safetensors"
        save_classifier(
            path,
            Classifier(load_encoder(encoders[0]), len(NAMES), output=output, seed=3),
            encoder=read_artifact(encoders[0]),
            classes=NAMES,
            calibration=Calibration(),
            trained_on=TrainedOn(fingerprint="ab", images=50),
            config={},
            decisions={},
        )
        return path

    return save


@pytest.fixture
def labelled(digits, tmp_path):
    """Return a function that writes labels of test digits, columns in another order."""
    store = open_store(f"{digits}/test-*.tar")

    def write(rule, only=slice(None)) -> tuple[Path, np.ndarray]:
        values = np.array([rule(int(y)) for y in store.labels])
        lines = [f"{k},{v[1]},{v[0]}" for k, v in zip(store.keys, values, strict=True)][only]
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(["key,large,odd", *lines]) + "\n")
        return path, values[only]

    return write


def evaluated(model: Path, digits: Path, labels: Path) -> tuple[dict, str]:
    command = ["evaluate", str(model), f"{digits}/test-*.tar", "--labels", str(labels)]
    assert main([*command, "--overwrite"]) == 0
    folder = model.parent / "evaluation"
    return json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text()


def said(model: Path, digits: Path) -> np.ndarray:
    images = open_store(f"{digits}/test-*.tar").images
    return load_classifier(model).values(images).double().numpy()


def test_several_labels_have_the_scores_of_scikit_learn(model_of, labelled, digits, capsys):
    model = model_of(MultiLabel())
    labels, truth = labelled(lambda d: (d % 2, int(d > 4)), only=slice(0, 500))
    found, text = evaluated(model, digits, labels)
    values = said(model, digits)[:500]
    assert (found["images"], found["unlabelled"]) == (500, 97)
    for place, name in enumerate(NAMES):
        scores = found["by_name"][name]
        wanted = average_precision_score(truth[:, place], values[:, place])
        assert scores["average_precision"] == pytest.approx(wanted)
        theirs = precision_recall_fscore_support(
            truth[:, place], values[:, place] >= 0.5, average="binary", zero_division=0
        )
        got = [scores[key] or 0 for key in ("precision", "recall", "f1")]
        assert got == pytest.approx(theirs[:3]) and scores["support"] == truth[:, place].sum()
    means = [found["by_name"][name]["average_precision"] for name in NAMES]
    assert found["map"] == pytest.approx(np.mean(means)) and 0 <= found["ece"] <= 1
    page = Page(text)
    assert_needs_no_network(page, text)
    assert len(page.all("img")) == 48
    assert "average precision" in capsys.readouterr().out


def test_quantities_are_scored_in_their_own_units(model_of, labelled, digits):
    model = model_of(Regression(means=(10.0, -3.0), scales=(5.0, 2.0)))
    labels, truth = labelled(lambda d: (10.0 + d, -d / 2))
    found, text = evaluated(model, digits, labels)
    values = said(model, digits)
    for place, name in enumerate(NAMES):
        errors = values[:, place] - truth[:, place]
        scores = found["by_name"][name]
        assert scores["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
        assert scores["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
        assert scores["r2"] == pytest.approx(r2_score(truth[:, place], values[:, place]), rel=1e-4)
    first = Page(text).all("img")[0]["alt"]
    furthest = np.abs((values - truth) / np.array([5.0, 2.0])).mean(axis=1).argmax()
    assert first.startswith(";".join(f"{v:.6g}" for v in truth[furthest]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["--labels", "multi_label"]),
        ("key,odd\nx,1\n", ["labels.csv", "odd, large", "columns odd"]),
        ("key,odd,large\nx,1,7\n", ["line 2", "'7'"]),
        ("key,odd,large\nnowhere,1,0\n", ["no image with a label"]),
    ],
)
def test_bad_labels_are_told_in_one_line(model_of, digits, tmp_path, capsys, text, words):
    command = ["evaluate", str(model_of(MultiLabel())), f"{digits}/test-*.tar"]
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
        command += ["--labels", str(tmp_path / "labels.csv")]
    assert main(command) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and all(word in line for word in words)
    assert not (tmp_path / "evaluation").exists()
