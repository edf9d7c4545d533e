"""`python -m downstream study` and `report A B`: several encoders on the same labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from downstream.__main__ import main
from downstream.results import Row, read_rows
from downstream.statistics import paired_difference
from tests.html_pages import Page


@pytest.fixture
def several(digits, encoders, tmp_path):
    """Return a function that writes a small study of two encoders, changed as asked."""

    def write(**changes) -> Path:
        values = {
            "name": "study",
            "runs_dir": str(tmp_path / "runs"),
            "encoders": {"one": str(encoders[0]), "two": str(encoders[1])},
            "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
            "budgets": [20, 60],
            "draws": 2,
            "features": {"grid": 2},
            "head": {"kind": "softmax", "steps": 40},
            "arms": ["frozen", "random_frozen", "raw_logistic"],
            **changes,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def pretraining(digits, tmp_path) -> Path:
    """The config of a pretraining of a few steps on the digits."""
    values = {
        "name": "tiny",
        "data": {"shards": f"{digits}/train-*.tar"},
        "steps": 3,
        "batch_size": 16,
        "encoder": {"kind": "conv", "widths": [4, 8]},
        "objective": {"kind": "autoencoder"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def rows_of(folder: Path) -> dict:
    return {row.key: row for row in read_rows(folder / "results.jsonl", Row)}


@pytest.mark.slow
def test_every_encoder_has_the_rows_of_a_curve_of_its_own(several, study, encoders, tmp_path):
    assert main(["study", str(several())]) == 0
    arms = ["frozen", "random_frozen", "raw_logistic"]
    for label, encoder in zip(("one", "two"), encoders, strict=True):
        path = study(name=label, encoder=str(encoder), arms=arms, workers=1)
        assert main(["curve", str(path)]) == 0
        alone, among = rows_of(tmp_path / "runs" / label), rows_of(curve(tmp_path, label))
        assert alone.keys() == among.keys()
        assert all(alone[key].nll == among[key].nll for key in alone)


def curve(tmp_path: Path, label: str) -> Path:
    return tmp_path / "runs/study/curves" / label


@pytest.mark.slow
def test_a_comparison_does_not_replace_the_page_of_a_study(several, tmp_path, capsys):
    assert main(["study", str(several())]) == 0
    one, two = (str(curve(tmp_path, label)) for label in ("one", "two"))
    before = Path(one, "report.html").read_bytes()
    assert main(["report", one, two, "--out", one]) == 2
    assert "holds a study" in capsys.readouterr().err
    assert Path(one, "report.html").read_bytes() == before


@pytest.mark.slow
def test_controls_are_computed_once_and_differences_are_paired(several, tmp_path, capsys):
    assert main(["study", str(several())]) == 0
    one, two = (rows_of(curve(tmp_path, label)) for label in ("one", "two"))
    controls = [key for key in one if key.arm != "frozen"]
    # A time that is the same to the last digit was not measured twice.
    assert controls and all(one[key].seconds == two[key].seconds for key in controls)
    folder = tmp_path / "runs/study"
    found = json.loads((folder / "comparison.json").read_text())
    assert set(found["series"]) == {"one/frozen", "two/frozen", "random_frozen", "raw_logistic"}
    for entry in found["differences"]:
        assert (entry["series"], entry["other"]) == ("two/frozen", "one/frozen")
        scores = [
            {
                (k.draw, 0): r.accuracy
                for k, r in rows.items()
                if k[:2] == ("frozen", entry["budget"])
            }
            for rows in (two, one)
        ]
        wanted = paired_difference(*scores)
        assert wanted is not None and entry["mean"] == pytest.approx(wanted.mean)
        assert (entry["low"], entry["high"]) == pytest.approx((wanted.low, wanted.high))
    said = capsys.readouterr().out
    assert "one: " in said and "two, frozen" in said
    assert {path.name for path in (folder / "figures").iterdir()} == {
        *("curves-frozen.png", "curves-frozen.svg", "differences.png", "differences.svg")
    }
    page = Page((folder / "report.html").read_text())
    assert not page.all("script") and not page.all("img")
    links = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert len(links) == 2 and all((folder / link).is_file() for link in links)


def test_a_heat_map_shows_which_stage_transfers_best_of_which_encoder(several, tmp_path):
    path = several(arms=["frozen_each_depth"], budgets=[60])
    assert main(["study", str(path)]) == 0
    folder = tmp_path / "runs/study"
    picture = (folder / "figures/depths.svg").read_text()
    for label in ("one", "two"):
        assert f">{label}</text>" in picture
        rows = rows_of(curve(tmp_path, label)).values()
        for stage in ("stage1", "stage2"):
            mean, random = (
                np.mean([row.accuracy for row in rows if row.arm == arm])
                for arm in (f"frozen_{stage}", f"random_frozen_{stage}")
            )
            assert f"{100 * mean:.1f}<" in picture
            assert f"{100 * (mean - random):+.1f}<".replace("-", "−") in picture
    summary = json.loads((curve(tmp_path, "one") / "summary.json").read_text())
    assert "stage1" not in summary["verdict"] and "stage2" in summary["verdict"]
    page = Page((folder / "report.html").read_text())
    assert "#depths" in [link["href"] for link in page.all("a")]


@pytest.mark.slow
def test_an_encoder_is_pretrained_first_and_reused_afterwards(
    several, encoders, pretraining, tmp_path, capsys
):
    source = {"pretrain": str(pretraining), "seeds": [0, 1], "overrides": ["batch_size=8"]}
    path = several(encoders={"made": source, "given": str(encoders[0])}, arms=["frozen"])
    assert main(["study", str(path)]) == 0
    runs = tmp_path / "runs/study/pretraining"
    artifacts = [runs / f"made-seed{seed}/encoder.safetensors" for seed in (0, 1)]
    made = [artifact.read_bytes() for artifact in artifacts]
    assert made[0] != made[1]
    assert {key.seed for key in rows_of(curve(tmp_path, "made"))} == {0, 1}
    times = [artifact.stat().st_mtime_ns for artifact in artifacts]
    assert main(["study", str(path), "--overwrite"]) == 0
    assert [artifact.stat().st_mtime_ns for artifact in artifacts] == times
    # With other settings it would be another run: it is not taken for the same.
    source["overrides"] = ["batch_size=4"]
    several(encoders={"made": source}, arms=["frozen"])
    capsys.readouterr()
    assert main(["study", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "encoders.made" in line and "made-seed0" in line and "batch_size" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoders": {}}, ["encoders"]),
        ({"encoders": {"a b": "x.safetensors"}}, ["encoders", "a b"]),
        ({"encoders": {"one": "nowhere.safetensors"}}, ["nowhere.safetensors"]),
        ({"encoders": {"one": {"pretrain": "no.yaml"}}}, ["encoders.one.pretrain", "no.yaml"]),
        ({"encoders": {"one": "no.safetensors", "two": {"pretrain": "x"}}}, ["no.safetensors"]),
        ({"budgets": [5]}, ["5", "10 classes"]),
    ],
)
def test_bad_input_is_told_in_one_line(several, capsys, changes, words):
    assert main(["study", str(several(**changes))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)


def test_studies_that_are_not_paired_are_not_compared(study, tmp_path, capsys):
    for name, others in (("first", {}), ("second", {"seed": 1}), ("third", {"label_noise": 0.2})):
        path = study(name=name, arms=["raw_logistic"], workers=1, **others)
        assert main(["curve", str(path)]) == 0
    folders = [str(tmp_path / "runs" / name) for name in ("first", "second", "third")]
    for arguments, word in (
        ([*folders[:2], "--out", str(tmp_path / "out")], "seed (1)"),
        ([*folders[::2], "--out", str(tmp_path / "out")], "label_noise (0.2)"),
        (folders, "--out"),
        ([folders[0], "--out", str(tmp_path / "out")], "--out"),
        ([folders[0], folders[0], "--out", str(tmp_path / "out")], "called first"),
    ):
        capsys.readouterr()
        assert main(["report", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert word in line
    assert not (tmp_path / "out").exists()


def test_the_folder_of_several_encoders_is_told_from_that_of_one(several, tmp_path, capsys):
    assert main(["study", str(several(arms=["raw_logistic"]))]) == 0
    for folder, words in (
        (tmp_path / "runs/study", "study/curves/one"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "holds no config.yaml"),
    ):
        for command in (["report", str(folder)], ["plan", str(folder), "--target", "0.9"]):
            capsys.readouterr()
            assert main(command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert words in line
