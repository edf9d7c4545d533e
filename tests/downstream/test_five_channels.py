"""Five channels from an array to a study's page, as a user would do it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from data.__main__ import main as data
from downstream.__main__ import main as downstream
from models.artifact import load_encoder
from pretrain.__main__ import main as pretrain

PRETRAINING = """\
data: {shards: set/train-*.tar}
steps: 6
batch_size: 32
encoder: {kind: conv, widths: [8, 16]}
objective: {kind: autoencoder, corruption: {kind: augment}}
"""
STUDY = """\
name: study
encoder: runs/resident/encoder.safetensors
data: {train: set/train-*.tar, test: set/test-*.tar}
budgets: [20]
draws: 2
arms: [frozen, finetuned, raw_logistic]
features: {grid: 2}
head: {kind: softmax, steps: 20}
finetune: {recipe: {steps: 5, augment: {crop_area: [0.5, 1], shift: 0}, mixing: {cutmix: 1}}}
workers: 1
"""


@pytest.mark.slow
def test_an_autoencoder_and_a_study_of_five_channels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    pixels = (digits.images[:400] * 255 / 16).astype(np.uint8)
    images = np.stack([np.roll(pixels, shift, axis=2) for shift in range(5)], axis=1)
    np.savez(
        "x.npz",
        x_train=images[:300],
        y_train=digits.target[:300],
        x_test=images[300:],
        y_test=digits.target[300:400],
    )
    assert data(["pack", "x.npz", "--out", "set"]) == 0
    Path("pretrain.yaml").write_text(PRETRAINING)
    weights = []
    for mode in ("resident", "indexed"):
        assert pretrain(["pretrain.yaml", f"data.mode={mode}", f"name={mode}"]) == 0
        encoder = load_encoder(Path("runs") / mode / "encoder.safetensors")
        assert encoder.input.channels == 5
        weights.append(encoder.blocks.state_dict())
        pictures = [*Path("runs", mode, "previews").rglob("*.png")]
        assert pictures and {Image.open(picture).mode for picture in pictures} <= {"RGB", "L"}
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    Path("study.yaml").write_text(STUDY)
    assert downstream(["curve", "study.yaml"]) == 0
    assert (Path("runs") / "study" / "report.html").stat().st_size > 10_000
