"""`python -m downstream evaluate`: scores of a trained classifier, and the page that shows them."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from data.store import open_store
from downstream.__main__ import main
from downstream.confusion import wilson_interval
from downstream.evaluation_page import DARK, DEEPEST, LIGHT
from downstream.reliability import calibration_error, reliability
from models.classifier_file import load_classifier
from tests.html_pages import Page, assert_needs_no_network, contrast


@pytest.fixture
def shards(digits, tmp_path):
    """Return a function that writes a shard of test digits and further members, and its path."""

    def write(*members: tuple[str, bytes], images: int = 20) -> Path:
        path = tmp_path / "more.tar"
        with (
            tarfile.open(digits / "test-000000.tar") as source,
            tarfile.open(path, "w") as target,
        ):
            for member in source.getmembers()[: 2 * images]:
                target.addfile(member, source.extractfile(member))
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                target.addfile(info, BytesIO(content))
        return path

    return write


def png_of(digits) -> bytes:
    with tarfile.open(digits / "test-000000.tar") as source:
        name = next(name for name in source.getnames() if name.endswith(".png"))
        found = source.extractfile(name)
        assert found is not None
        return found.read()


def evaluated(model, *arguments: object) -> dict:
    assert main(["evaluate", str(model), *map(str, arguments), "--overwrite"]) == 0
    return json.loads((model.parent / "evaluation" / "metrics.json").read_text())


def test_scores_are_those_of_the_loaded_model(fitted_model, digits, capsys):
    found = evaluated(fitted_model, f"{digits}/test-*.tar")
    store = open_store(f"{digits}/test-*.tar")
    probabilities = load_classifier(fitted_model).probabilities(store.images).double()
    truth, predicted = store.labels.numpy(), probabilities.argmax(1).numpy()
    assert found["images"] == len(store)
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    low, high = found["accuracy_interval"]
    assert 0.8 < low < found["accuracy"] < high < 1
    wanted = precision_recall_fscore_support(truth, predicted, zero_division=np.nan)
    for number, scores in enumerate(found["classes"].values()):
        got = [scores[key] for key in ("precision", "recall", "f1", "support")]
        assert got == pytest.approx([part[number] for part in wanted])
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (truth, predicted), 1)
    assert found["confusion"] == confusion.tolist()
    nll = torch.nn.functional.nll_loss(probabilities.log(), store.labels)
    assert found["nll"] == pytest.approx(float(nll), rel=1e-4)
    assert f"{100 * found['accuracy']:.1f} %" in capsys.readouterr().out


def test_the_page_shows_the_worst_mistakes_and_needs_no_network(fitted_model, digits):
    found = evaluated(fitted_model, f"{digits}/test-*.tar")
    text = (fitted_model.parent / "evaluation" / "report.html").read_text()
    page = Page(text)
    assert_needs_no_network(page, text)
    wrong = round(found["images"] * (1 - found["accuracy"]))
    assert 0 < len(page.all("img")) == min(wrong, 48)
    for picture in page.all("img"):
        truth, predicted = picture["alt"].split(", taken for ")
        assert truth != predicted and {truth, predicted} <= set(found["classes"])
    store = open_store(f"{digits}/test-*.tar")
    probabilities = load_classifier(fitted_model).probabilities(store.images)
    confidence, predicted = probabilities.max(1)
    missed = [
        (float(c), key)
        for c, p, y, key in zip(confidence, predicted, store.labels, store.keys, strict=True)
        if p != y
    ]
    places = [text.index(f">{key}<") for _, key in sorted(missed, reverse=True)[:3]]
    assert places == sorted(places)


def test_cells_can_be_read_over_their_colour():
    for theme in (LIGHT, DARK):
        for role in ("accent", "wrong"):
            over, under = (
                [int(theme[name][at : at + 2], 16) for at in (1, 3, 5)] for name in (role, "page")
            )
            depth = DEEPEST / 100
            mixed = [round(depth * o + (1 - depth) * u) for o, u in zip(over, under, strict=True)]
            assert contrast(theme["ink"], "#" + bytes(mixed).hex()) >= 4.5


def test_images_that_cannot_be_scored_are_counted_and_the_first_named(
    fitted_model, digits, shards, capsys
):
    good = png_of(digits)
    path = shards(
        ("broken.png", b"\x89PNG\r\n\x1a\n nothing more"),
        ("broken.cls", b"3"),
        ("bare.png", good),
        ("last.png", good),
        ("last.cls", b"3"),
    )
    found = evaluated(fitted_model, path)
    assert (found["images"], found["skipped"], found["unlabelled"]) == (21, 1, 1)
    said = capsys.readouterr().err
    assert "key broken" in said and "key bare" in said


def test_a_label_that_the_model_does_not_have_is_told_in_one_line(
    fitted_model, digits, shards, capsys
):
    path = shards(("odd.png", png_of(digits)), ("odd.cls", b"10"))
    assert main(["evaluate", str(fitted_model), str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "key odd" in line and "label 10" in line and "10 classes" in line


def test_classes_are_matched_by_name_where_both_sides_name_them(
    fitted_model, digits, shards, tmp_path, capsys
):
    """The same images with their classes in another order, then with one that is not known."""
    wanted = evaluated(fitted_model, f"{digits}/test-*.tar")
    folder = tmp_path / "other"
    folder.mkdir()
    order = [f"digit {label}" for label in reversed(range(10))]
    with tarfile.open(folder / "test-000000.tar", "w") as target:
        for shard in sorted(digits.glob("test-*.tar")):
            with tarfile.open(shard) as source:
                for member in source.getmembers():
                    content = source.extractfile(member).read()
                    if member.name.endswith(".cls"):
                        content = str(9 - int(content)).encode()
                    member.size = len(content)
                    target.addfile(member, BytesIO(content))
    info = json.loads((digits / "dataset.json").read_text())
    info |= {"classes": order, "counts": {"test": info["counts"]["test"]}}
    info["shards"] = {"test": ["test-000000.tar"]}
    info["sha256"] = None
    (folder / "dataset.json").write_text(json.dumps(info))
    assert evaluated(fitted_model, folder / "test-000000.tar")["accuracy"] == wanted["accuracy"]

    info["classes"] = [*order[:9], "letter o"]
    (folder / "dataset.json").write_text(json.dumps(info))
    capsys.readouterr()
    out = ["--out", str(tmp_path / "none")]
    assert main(["evaluate", str(fitted_model), str(folder / "test-000000.tar"), *out]) == 2
    assert "'letter o'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_an_evaluation_is_not_replaced_unasked(fitted_model, digits, capsys):
    evaluated(fitted_model, f"{digits}/test-*.tar")
    assert main(["evaluate", str(fitted_model), f"{digits}/test-*.tar"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_calibration_error_of_known_confidences():
    confidence = np.repeat([0.6, 0.9], 100)
    right = np.r_[np.arange(100) < 60, np.arange(100) < 70]
    bins = reliability(confidence, right)
    assert [one.images for one in bins] == [100, 100]
    assert calibration_error(bins) == pytest.approx(0.1)
    # As published for 81 of 100 (Wilson, without continuity correction).
    assert wilson_interval(81, 100) == pytest.approx((0.7222, 0.8749), abs=1e-4)


def test_labels_from_a_file_take_the_place_of_those_in_the_shards(
    fitted_model, digits, tmp_path, capsys
):
    store = open_store(f"{digits}/test-*.tar")
    labels = tmp_path / "labels.csv"
    lines = [f"{k},digit {(y + 1) % 10}" for k, y in zip(store.keys, store.labels, strict=True)]
    labels.write_text("\n".join(["key,label", *lines[:300]]) + "\n")
    found = evaluated(fitted_model, f"{digits}/test-*.tar", "--labels", labels)
    assert (found["images"], found["unlabelled"]) == (300, 297) and found["accuracy"] < 0.1
    labels.write_text("key,label\n" + lines[0].split(",")[0] + ",letter\n")
    assert (
        main(
            [
                "evaluate",
                str(fitted_model),
                f"{digits}/test-*.tar",
                "--out",
                "x",
                "--labels",
                str(labels),
            ]
        )
        == 2
    )
    assert "letter" in capsys.readouterr().err
