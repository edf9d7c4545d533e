"""Mistakes end with exit status 2 and one line that says what was found and what would do."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.pack import pack
from downstream.__main__ import main
from downstream.results import Row, read_rows


def refuse(capsys, *arguments: object) -> str:
    """Run the command line, which must refuse; return its one line."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def packed(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "set.npz", **arrays)
    pack(str(folder / "set.npz"), folder / "packed")
    return folder / "packed"


def some_images(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, side, side), dtype=np.uint8)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("arms=[frozen, froozen]", ["arms", "froozen", "frozen", "raw_logistic"]),
        ("budgets=[20, 5000]", ["5000", "1200"]),
        ("budgets=[5]", ["5 labels", "10 classes"]),
        ("features.stages=[stage9]", ["stage9", "stage1, stage2"]),
        ("scratch.trials=[{lr: fast}]", ["scratch", "trial 0", "lr"]),
        ("data.test=nothing/*.tar", ["nothing/*.tar"]),
        ("scratch.recipe={mc_samples: 5, dropout: 0}", ["scratch.recipe.mc_samples", "found 5"]),
        ("scratch.trials=[{}, {mc_samples: 2, dropout: 0.0}]", ["scratch.recipe", "trial 1"]),
        ("drawz=3", ["drawz", "draws"]),
        ("encoder=nowhere.safetensors", ["nowhere.safetensors"]),
    ],
)
def test_a_config_that_does_not_fit(study, capsys, tmp_path, override, names):
    line = refuse(capsys, "curve", study(), override)
    assert all(name in line for name in names), line
    assert not (tmp_path / "runs" / "study").exists()


def test_an_artifact_that_is_none(study, capsys, tmp_path, digits):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not an encoder")
    assert "other.safetensors" in refuse(capsys, "curve", study(), f"encoder={other}")


def test_images_of_another_size(study, capsys):
    line = refuse(capsys, "curve", study(), "data.size=12")
    assert "1x16x16" in line and "1x12x12" in line and ".safetensors" in line


def test_missing_labels(study, capsys, tmp_path):
    folder = packed(tmp_path, images=some_images(30))
    line = refuse(capsys, "curve", study(), f"data.train={folder}/*.tar")
    assert "data.train" in line and "30 of 30" in line and "label" in line


def test_other_classes(study, capsys, tmp_path):
    labels = np.arange(40) % 12
    folder = packed(
        tmp_path,
        x_train=some_images(40),
        y_train=labels,
        x_test=some_images(40),
        y_test=labels,
    )
    line = refuse(capsys, "curve", study(), f"data.test={folder}/test-*.tar")
    assert "data.test" in line and "classes" in line


def test_encoders_that_do_not_belong_together(study, capsys, encoders, tmp_path):
    copy = tmp_path / "copy.safetensors"
    shutil.copy(encoders[0], copy)
    line = refuse(capsys, "curve", study(), f"encoder=[{encoders[0]}, {copy}]")
    assert "the same" in line


def test_a_folder_with_another_study(study, capsys, tmp_path):
    config = study(arms=["raw_logistic"], budgets=[20])
    assert main(["curve", str(config)]) == 0
    before = (tmp_path / "runs/study/results.jsonl").read_bytes()
    capsys.readouterr()
    line = refuse(capsys, "curve", config, "head.steps=41")
    assert "head.steps" in line and "40" in line and "41" in line and "--overwrite" in line
    assert (tmp_path / "runs/study/results.jsonl").read_bytes() == before
    assert main(["curve", str(config), "head.steps=41", "--overwrite"]) == 0
    rows = (tmp_path / "runs/study/results.jsonl").read_text().splitlines()
    assert len(rows) == 2
    assert json.loads(rows[0])["choices"]["steps"] <= 41


@pytest.mark.slow
def test_no_space_left_leaves_nothing_half_written(study, capsys, tmp_path):
    config = study(arms=["raw_logistic", "frozen"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # features need more
    try:
        line = refuse(capsys, "curve", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "no space left" in line
    cache = tmp_path / "runs" / ".cache" / "features"
    assert list(cache.iterdir()) == []
    assert not (tmp_path / "runs/study/summary.json").exists()
    assert main(["curve", str(config)]) == 0
    assert len(read_rows(tmp_path / "runs/study/results.jsonl", Row)) == 8


def test_a_report_of_no_study(capsys, tmp_path):
    assert "config.yaml" in refuse(capsys, "report", tmp_path)


def test_the_config_can_be_printed(study, capsys):
    assert main(["curve", str(study()), "draws=7", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "draws: 7" in printed and "label_smoothing" in printed
