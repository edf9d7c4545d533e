"""Copies of test images in whole studies: found, counted, shown, and left out if asked."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.audit import Copy
from data.pack import pack
from data.store import open_store
from downstream.__main__ import main
from downstream.config import CurveConfig
from downstream.copy_notes import copy_warnings
from downstream.inputs import open_inputs
from downstream.leaks import check_leaks
from downstream.methods_text import methods
from downstream.results import Row, read_rows
from downstream.study_audit import audit_facts, audit_study
from models.artifact import load_encoder, save_encoder
from tests.html_pages import Page, assert_needs_no_network
from training.config import load_config

EXACT, JPEG, SHIFTED = (3, 40, 90), (7, 100), (200, 300, 350, 410)
PLANTED = {row: row + 500 for row in (*EXACT, *JPEG, *SHIFTED)}
"""Rows of test images that are copies of training images, and the rows of these."""


@pytest.fixture(scope="module")
def planted(digits, tmp_path_factory) -> dict[str, str]:
    """The digits, packed, where some test images are copies of training images."""
    train, test = (open_store(f"{digits}/{split}-*.tar") for split in ("train", "test"))
    images = test.images.clone()
    for row, learned in PLANTED.items():
        images[row] = train.images[learned]
        if row in JPEG:
            file = io.BytesIO()
            Image.fromarray(images[row, 0].numpy()).save(file, format="JPEG", quality=85)
            images[row, 0] = torch.from_numpy(np.array(Image.open(file)))
        elif row in SHIFTED:
            images[row] = torch.nn.functional.pad(images[row], (1, 0))[..., :-1]
    folder = tmp_path_factory.mktemp("planted")
    np.savez(
        folder / "planted.npz",
        x_train=train.images[:, 0].numpy(),
        y_train=train.labels.numpy(),
        x_test=images[:, 0].numpy(),
        y_test=test.labels.numpy(),
    )
    pack(str(folder / "planted.npz"), folder / "packed")
    # The training shards are those that the encoders were trained on.
    return {"train": f"{digits}/train-*.tar", "test": f"{folder}/packed/test-*.tar"}


def rows_of(folder: Path) -> dict:
    return {row.key: row for row in read_rows(folder / "results.jsonl", Row)}


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_copies_are_found_counted_scored_and_shown(study, planted, encoders, tmp_path, capsys):
    path = study(data=planted, arms=["frozen", "raw_logistic", "scratch"], workers=1)
    runs = tmp_path / "runs"
    assert main(["curve", str(path)]) == 0
    said = capsys.readouterr()
    assert "comparing 597 test images with 1,200 images learned from" in said.out
    assert "warning: 9 of 597 test images have a copy among the images learned from" in said.err

    summary = summary_of(runs / "study")
    for role in ("pretrain", "train"):  # the encoder was trained on data.train
        counts = summary["audit"]["counts"][role]
        assert counts == {"images": 1200, "exact_pairs": 3, "near_pairs": 6, "test_images": 9}
    assert "9 of 597 test images" in summary["notes"][0]
    assert "no test image but those with copies was seen" in summary["arm_notes"]["scratch"][-1]
    audit = json.loads((runs / "study/audit.json").read_text())
    of_train = [pair for pair in audit["pairs"] if "train" in pair]
    rows = {pair["test"]: int(pair["train"].removeprefix("data.train:train-")) for pair in of_train}
    assert rows == {f"data.test:test-{row:07}": learned for row, learned in PLANTED.items()}
    assert sum(pair["kind"] == "exact" for pair in of_train) == len(EXACT)

    # The same labels in the same study without copies: what differs is which images are scored.
    assert main(["curve", str(path), "name=removed", "data.remove_copies=true"]) == 0
    said = capsys.readouterr()
    assert "comparing" not in said.out, "the comparison was kept on disk"
    assert "left out of all scores" in said.err
    kept, removed = rows_of(runs / "study"), rows_of(runs / "removed")
    assert kept.keys() == removed.keys()
    for key, row in kept.items():
        assert removed[key].with_copies == row.accuracy
        assert removed[key].accuracy == row.without_copies
        assert row.with_copies is None and removed[key].without_copies is None
        assert removed[key].choices == row.choices
        assert removed[key].nll != row.nll

    # Both accuracies are those of the classifier's hits, class by class.
    labels = open_store(planted["test"]).labels
    others = np.setdiff1d(np.arange(597), list(PLANTED))
    for rows, scored in ((kept, np.arange(597)), (removed, others)):
        sizes = torch.bincount(labels[scored], minlength=10).double()
        for row in rows.values():
            hits = torch.tensor(row.class_accuracies, dtype=torch.double) * sizes
            torch.testing.assert_close(hits, hits.round())
            assert row.accuracy == pytest.approx(float(hits.sum() / sizes.sum()))

    table = {(e["arm"], e["budget"]): e for e in summary["copies"]}
    assert table.keys() == {(key.arm, key.budget) for key in kept}
    for (arm, budget), entry in table.items():
        own = [row for row in kept.values() if (row.arm, row.budget) == (arm, budget)]
        gains = [row.accuracy - row.without_copies for row in own]
        assert entry["difference"]["mean"] == pytest.approx(np.mean(gains))
    again = {(e["arm"], e["budget"]): e for e in summary_of(runs / "removed")["copies"]}
    assert again == table

    text = (runs / "study/report.html").read_text()
    page = Page(text)
    assert_needs_no_network(page, text)
    shown = [image for image in page.all("img") if image["alt"].startswith("its copy among the ")]
    assert len(shown) == len(PLANTED)
    assert {image["alt"] for image in shown} == {
        "its copy among the pretraining and training images"
    }
    assert "9: 3 exact and 6 near pairs" in page.texts["dd"]
    entry = table["frozen", 60]
    assert any(
        f"{100 * entry['with_copies']['mean']:.2f} with, "
        f"{100 * entry['without_copies']['mean']:.2f} without" in cell
        for cell in page.texts["td"]
    )
    assert json.loads((runs / "removed/gallery.json").read_text())["tested"] == 588
    removed_page = Page((runs / "removed/report.html").read_text())
    assert "588 images" in removed_page.texts["dd"]
    config = load_config(CurveConfig, runs / "removed/config.yaml")
    environment = json.loads((runs / "removed/environment.json").read_text())
    assert (
        "exact or near copy among the images learned from (9 of these)"
        in methods(config, environment).paragraph
    )
    assert "left out of all scores" in methods(config, environment).paragraph


def test_a_study_without_copies_has_no_scores_of_them(study, tmp_path, capsys):
    assert main(["curve", str(study(arms=["raw_logistic"], budgets=[20]))]) == 0
    assert "warning" not in capsys.readouterr().err
    folder = tmp_path / "runs/study"
    assert all(
        row.without_copies is None and row.with_copies is None for row in rows_of(folder).values()
    )
    summary = summary_of(folder)
    assert (summary["copies"], summary["warnings"]) == ([], [])
    said = "None of 597 test images has an exact or near copy among the images learned from."
    assert said in summary["notes"]
    page = Page((folder / "report.html").read_text())
    assert not any("copies-table" in a.get("aria-labelledby", "") for a in page.all("table"))
    assert not page.all("img")


@pytest.mark.slow
def test_copies_among_the_images_of_pretraining(study, digits, encoders, tmp_path, capsys):
    """Of one set that pretraining learns from, some are test images and some are not."""
    train, test = (open_store(f"{digits}/{split}-*.tar") for split in ("train", "test"))
    images = torch.cat([train.images[:400], test.images[:50]])[:, 0].numpy()
    np.savez(tmp_path / "pool.npz", x_train=images, y_train=np.arange(450) % 10)
    pack(str(tmp_path / "pool.npz"), tmp_path / "pool")
    pool = open_store(f"{tmp_path}/pool/train-*.tar")
    artifact = tmp_path / "pooled.safetensors"
    save_encoder(
        artifact,
        load_encoder(encoders[0]),
        trained_on={"fingerprint": pool.fingerprint, "images": len(pool)},
        config={"seed": 3},
    )
    data = {split: f"{digits}/{split}-*.tar" for split in ("train", "test")}
    path = study(encoder=str(artifact), data=data, arms=["frozen"], budgets=[20], draws=1)
    # Without data.pretraining nobody can tell.
    assert main(["curve", str(path), "name=unknown"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert summary_of(tmp_path / "runs/unknown")["audit"]["counts"].keys() == {"train"}

    assert main(["curve", str(path), f"data.pretraining={tmp_path}/pool/train-*.tar"]) == 0
    assert "50 among the unlabelled images of pretraining (50 exact" in capsys.readouterr().err
    counts = summary_of(tmp_path / "runs/study")["audit"]["counts"]
    assert (counts["pretrain"]["images"], counts["pretrain"]["test_images"]) == (450, 50)
    assert counts["train"]["test_images"] == 0
    pairs = json.loads((tmp_path / "runs/study/audit.json").read_text())["pairs"]
    assert {pair["pretrain"] for pair in pairs} == {
        f"data.pretraining:train-{row:07}" for row in range(400, 450)
    }


def test_pretraining_on_the_test_images_is_told_apart(study, planted, encoders, tmp_path):
    """They are not compared with themselves, so that labelled images alone decide what is left."""
    test = open_store(planted["test"])
    artifact = tmp_path / "seen.safetensors"
    trained_on = {"fingerprint": test.fingerprint, "images": len(test)}
    save_encoder(artifact, load_encoder(encoders[0]), trained_on=trained_on, config={"seed": 3})
    config = load_config(CurveConfig, study(data=planted, encoder=str(artifact)))
    inputs = open_inputs(config)
    facts = audit_facts(audit_study(inputs, config), inputs)
    assert (facts["test_images"], facts["counts"].keys()) == (len(PLANTED), {"train"})
    labelled, pretraining = copy_warnings(check_leaks(inputs), facts, removed=True, labelled=False)
    assert "9 among data.train (3 exact and 6 near pairs). They are left out" in labelled
    assert pretraining == (
        "Pretraining has seen 597 of 597 test images themselves, without labels; these are not "
        "left out."
    )


def test_nothing_is_left_to_score_where_every_test_image_has_a_copy(study, digits, capsys):
    shards = f"{digits}/test-*.tar"
    path = study(data={"train": shards, "test": shards, "remove_copies": True}, arms=["frozen"])
    assert main(["curve", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data.remove_copies: all 597 images of data.test have a copy")
    assert error.count("\n") == 1


def test_a_study_does_not_go_on_where_other_images_have_copies(study, planted, tmp_path, capsys):
    path = study(data=planted, arms=["raw_logistic"], budgets=[20])
    assert main(["curve", str(path)]) == 0
    (cached,) = (tmp_path / "runs/.cache/audits").iterdir()
    found = json.loads(cached.read_text())
    found["copies"].pop()
    cached.write_text(json.dumps(found))
    capsys.readouterr()
    assert main(["curve", str(path)]) == 2
    assert "audit.test_images is " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "compared"),
    [
        (lambda images: images[..., :7, :7], "exact"),  # too small
        (lambda images: torch.full_like(images, 90), "near"),  # flat
        (lambda images: images[:1], "near"),
        (lambda images: images.repeat(1, 1, 5, 5), "near"),  # scaled down
    ],
)
def test_images_that_are_hard_to_compare(study, planted, tmp_path, images, compared):
    """The first training image is the only image learned from, and the first test image."""
    config = load_config(CurveConfig, study(data=planted))
    inputs = open_inputs(config)
    test = inputs.test.images[:20].clone()
    test[0] = inputs.train.images[0]
    changed = replace(
        inputs,
        train=replace(inputs.train, images=images(inputs.train.images[:1])),
        test=replace(inputs.test, images=images(test), labels=inputs.test.labels[:20]),
    )
    audit = audit_study(changed, config)
    assert audit.compared == compared
    assert (audit.why_exact or "").startswith("images are 7 x 7" if compared == "exact" else "")
    assert Copy(0, 0, "exact", 0.0) in audit.copies
    assert audit_study(changed, config) == audit


def test_exact_copies_alone_where_that_is_asked_for(study, planted):
    config = load_config(CurveConfig, study(data={**planted, "audit": "exact"}))
    audit = audit_study(open_inputs(config), config)
    assert (audit.compared, audit.why_exact) == ("exact", None)
    assert {copy.test for copy in audit.copies} == set(EXACT)
