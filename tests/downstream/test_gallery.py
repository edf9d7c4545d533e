"""The gallery of a study: made once from its first encoder, shown by its report."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from data.store import open_store
from downstream.__main__ import main
from downstream.gallery import read_gallery
from downstream.results import Row, read_rows
from tests.html_pages import Page, assert_needs_no_network


@pytest.fixture
def made(study, tmp_path):
    """The folder of a finished study, and the command that made it."""
    command = ["curve", str(study(arms=["frozen", "random_frozen"], workers=1))]
    assert main(command) == 0
    return tmp_path / "runs/study", command


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


@pytest.mark.slow
def test_what_is_shown_is_what_the_encoder_makes_of_the_images(made, digits):
    folder, _ = made
    gallery = read_gallery(folder)
    train, test = (open_store(f"{digits}/{split}-*.tar") for split in ("train", "test"))
    # The head is that of the study: what it mistakes is what its row counts.
    (row,) = (
        row for row in read_rows(folder / "results.jsonl", Row) if row.key[:3] == ("frozen", 60, 0)
    )
    assert gallery.wrong / gallery.tested == pytest.approx(1 - row.accuracy)
    assert len(gallery.mistakes) == 24
    confidences = [one.confidence for one in gallery.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    for one in gallery.mistakes:
        assert one.label == test.labels[one.row] != one.predicted
        assert (pixels(one.picture) == test.images[one.row, 0].numpy()).all()
    assert {one.label for one in gallery.asked} == set(range(10))
    same = 0
    for asked in gallery.asked:
        assert asked.label == test.labels[asked.row]
        assert len({one.row for one in asked.nearest}) == 6
        cosines = [one.cosine for one in asked.nearest]
        assert cosines == sorted(cosines, reverse=True)
        for one in asked.nearest:
            assert one.label == train.labels[one.row]
            assert (pixels(one.picture) == train.images[one.row, 0].numpy()).all()
            same += one.label == asked.label
    assert same > 30  # of 60; by chance 6
    embedding = gallery.embedding
    assert embedding.labels == test.labels[embedding.rows].tolist()
    assert np.isfinite(embedding.pretrained).all() and embedding.pretrained != embedding.random
    assert purity(embedding.pretrained, embedding.labels) > 0.8


def purity(points, labels) -> float:
    """How often the nearest point in the plane is of the same class."""
    points, labels = np.array(points), np.array(labels)
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(axis=1)] == labels).mean())


@pytest.mark.slow
def test_the_report_shows_it_in_pictures_and_words(made):
    folder, _ = made
    gallery = read_gallery(folder)
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert_needs_no_network(page, text)
    assert len(page.all("img")) == 10 + 60 + 24
    assert all(image["alt"] for image in page.all("img"))
    words = " ".join(page.texts["li"])
    assert words.count("another class, ") == sum(
        one.label != asked.label for asked in gallery.asked for one in asked.nearest
    )
    assert words.count("same class") + words.count("another class, ") == 60
    worst = gallery.mistakes[0]
    assert f"{worst.label}, taken for {worst.predicted}" in {i["alt"] for i in page.all("img")}
    for name in ("embedding", "nearest", "mistakes"):
        for kind in ("png", "svg"):
            assert (folder / f"figures/{name}.{kind}").stat().st_size > 10_000
    assert len(text) < 3_000_000


@pytest.mark.slow
def test_it_is_made_once_and_again_where_it_is_missing(made, capsys):
    folder, command = made
    first = (folder / "gallery.json").read_bytes()
    written = (folder / "gallery.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (folder / "gallery.json").stat().st_mtime_ns == written
    (folder / "gallery.json").unlink()
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "this study has no gallery.json" in page and "<img" not in page
    assert main(command) == 0
    assert (folder / "gallery.json").read_bytes() == first
    capsys.readouterr()
    (folder / "gallery.json").write_text(json.dumps({"encoder": "x"}))
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "gallery.json: seed" in line and "delete it" in line


def test_a_study_without_a_pretrained_arm_has_none(study, tmp_path):
    assert main(["curve", str(study(arms=["raw_logistic", "random_frozen"], workers=1))]) == 0
    folder = tmp_path / "runs/study"
    assert not (folder / "gallery.json").exists()
    assert "no arm of this study has a pretrained encoder" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_head_on_a_graph_has_one_too(study, tmp_path):
    path = study(arms=["frozen"], head={"kind": "label_propagation"}, budgets=[20], workers=1)
    assert main(["curve", str(path)]) == 0
    gallery = read_gallery(tmp_path / "runs/study")
    assert gallery.searched == 1200 and 0 < gallery.wrong < gallery.tested


@pytest.mark.slow
def test_a_study_that_is_begun_anew_does_not_keep_it(made):
    folder, command = made
    assert main([*command, "arms=[raw_logistic]", "--overwrite"]) == 0
    assert not (folder / "gallery.json").exists()
    assert not list((folder / "figures").glob("embedding.*"))
