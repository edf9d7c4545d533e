"""How alike two tasks are: what each stage is worth, what is recommended, and how certainly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.store import open_store
from downstream.__main__ import main
from downstream.task_similarity import (
    SimilarityConfig,
    StageSimilarity,
    TaskSimilarity,
    _best_depth,
    task_similarity,
)
from models.artifact import load_encoder, save_encoder


def a_stage(name: str, *, gain: float) -> StageSimilarity:
    return StageSimilarity(
        stage=name,
        log_me=0.1,
        h_score=1,
        cka_labels=0.1,
        cka_random=0.5,
        accuracy=0.5 + gain,
        random=0.5,
        gain=gain,
        gain_error=0.02,
    )


def test_the_best_depth_and_how_certain_it_is() -> None:
    hits = np.zeros((3, 200), bool)
    hits[0, :100] = hits[1, :160] = hits[2, :160] = True
    assert _best_depth(hits, seed=0) == (3, 1.0, (2, 3))  # of equals the most stages
    hits[2, 150:160] = False
    depth, certainty, not_worse = _best_depth(hits, seed=0)
    assert (depth, not_worse) == (2, (2,)) and certainty == 1
    hits[2, 150:160] = False
    hits[2, 160:169] = True  # 159 right, others than the second depth's
    depth, certainty, not_worse = _best_depth(hits, seed=0)
    assert depth == 2 and not_worse == (2, 3) and 0.4 < certainty < 0.75


def test_the_verdict_says_what_helps_and_what_counts() -> None:
    def verdict(gain: float, told: str | None = None) -> str:
        stages = (a_stage("stage1", gain=0.0), a_stage("stage2", gain=gain))
        return TaskSimilarity(
            encoder="e", labels=300, stages=stages, reuse=2, certainty=0.8, not_worse=(1, 2),
            votes={}, source_labels=told,
        ).verdict  # fmt: skip

    helps = verdict(0.1, "40 labels: cats")
    assert helps.startswith(
        "Reuse about 2 of 2 stages, up to stage2: the same number is best in 80"
    )
    assert "1 cannot be told from it" in helps and "10.0 ± 2.0 points" in helps
    assert "Pretraining learned from 40 labels: cats." in helps
    assert helps.endswith("The 300 labels that chose count among those of the transfer.")
    assert "no measurable difference" in verdict(0.01)
    assert "do not reuse them" in verdict(-0.1)


def test_an_encoder_that_knows_the_digits_is_told_from_one_that_does_not(
    digits: Path, encoders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fresh weights gain nothing over other fresh weights; a template for each digit does."""
    shards = str(digits / "train-*.tar")
    config = SimilarityConfig(count=200, grid=2)
    fresh = task_similarity(encoders[0], [shards], config)
    assert [one.stage for one in fresh.stages] == ["stage1", "stage2"]
    for one in fresh.stages:
        assert abs(one.gain) <= 4 * one.gain_error + 0.02
        assert 0.3 < one.accuracy <= 1 and 0.2 < one.cka_random <= 1

    store = open_store(shards)
    assert store.labels is not None
    encoder = load_encoder(encoders[0])
    lowest = encoder.blocks["stage1"][0]
    with torch.no_grad():
        lowest.weight.zero_()  # nothing is left of the images
    blind = tmp_path / "blind.safetensors"
    save_encoder(
        blind,
        encoder,
        trained_on={
            "fingerprint": "f" * 64,
            "images": 9,
            "labels": 9,
            "label_sources": ["class labels of the shards (a, b)"],
        },
        config={"seed": 0},
    )
    out = tmp_path / "similarity.json"
    command = ["similarity", str(blind), shards, "count=200", "grid=2", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "stages reused" in said and "2, up to stage2" in said and "do not reuse them" in said
    found = json.loads(out.read_text())
    assert found["verdict"] in said and "9 labels: class labels of the shards (a, b)" in said
    assert found["labels"] == 200
    known, blinded = fresh.stages[1], found["stages"][1]
    assert known.log_me > blinded["log_me"] and known.h_score > blinded["h_score"] + 1
    assert known.cka_labels > 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["count=29"], ["count", "29", "10 classes", "30"]),
        (["count=5000"], ["count", "5000", "1200"]),
        (["size=8"], ["SHARDS", "1x16x16", "1x8x8"]),
        (["grids=2"], ["grids"]),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str],
    words: list[str],
    digits: Path,
    encoders: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["similarity", str(encoders[0]), str(digits / "train-*.tar"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
