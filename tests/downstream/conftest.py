"""Small real data for stage two: scikit-learn's digits, packed, and two encoders for them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from data.pack import pack
from data.store import open_store
from downstream.features import calibrate_batch_norm
from models.artifact import TrainedOn, load_encoder, read_artifact, save_encoder
from models.classifier_file import Calibration, save_classifier
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.heads import Classifier

TRAIN_IMAGES = 1200


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A packed set: 1,200 training and 597 test digits, 16 x 16 pixels in grey."""
    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    images = np.kron(found.images, np.ones((1, 2, 2))) * (255 / 16)
    images, labels = images.astype(np.uint8), found.target.astype(np.int64)
    np.savez(
        folder / "digits.npz",
        x_train=images[:TRAIN_IMAGES],
        y_train=labels[:TRAIN_IMAGES],
        x_test=images[TRAIN_IMAGES:],
        y_test=labels[TRAIN_IMAGES:],
    )
    pack(str(folder / "digits.npz"), folder / "packed")
    return folder / "packed"


@pytest.fixture(scope="session")
def encoders(digits, tmp_path_factory) -> list[Path]:
    """Artifacts of two small encoders of one spec, weights drawn from seeds 3 and 4."""
    folder = tmp_path_factory.mktemp("encoders")
    store = open_store(str(digits / "train-*.tar"))
    contract = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.37,))
    paths = []
    for seed in (3, 4):
        encoder = build_encoder(ConvEncoderConfig(widths=(8, 16)), contract, seed=seed)
        calibrate_batch_norm(encoder, store.images[:500])
        paths.append(folder / f"{seed}.safetensors")
        save_encoder(
            paths[-1],
            encoder,
            trained_on={"fingerprint": store.fingerprint, "images": len(store)},
            config={"seed": seed},
        )
    return paths


@pytest.fixture(scope="session")
def fitted(digits, encoders, tmp_path_factory) -> Path:
    """A classifier of the digits, named digit 0 to digit 9, about 95 % right."""
    store = open_store(str(digits / "train-*.tar"))
    classifier = Classifier(load_encoder(encoders[0]), 10, grid=4)
    with torch.no_grad():
        features = classifier.pooled(store.images.float() / 255)
    mean, std = features.mean(0), features.std(0).clamp_min(1e-3)
    head = LogisticRegression(C=0.01).fit((features - mean) / std, store.labels)
    weight = torch.tensor(head.coef_, dtype=torch.float32) / std
    linear = classifier.head.linear
    linear.weight.data.copy_(weight)
    linear.bias.data.copy_(torch.tensor(head.intercept_, dtype=torch.float32) - weight @ mean)
    path = tmp_path_factory.mktemp("fitted") / "model.safetensors"
    save_classifier(
        path,
        classifier,
        encoder=read_artifact(encoders[0]),
        classes=[f"digit {label}" for label in range(10)],
        calibration=Calibration(temperature=0.8, abstain_below={"0.95": 0.7}, labels=1200),
        trained_on=TrainedOn(fingerprint=store.fingerprint, images=1200),
        config={},
        decisions={},
    )
    return path


@pytest.fixture
def fitted_model(fitted, tmp_path) -> Path:
    """A copy of it in a folder of its own."""
    return Path(shutil.copy(fitted, tmp_path / "model.safetensors"))


@pytest.fixture
def study(digits, encoders, tmp_path):
    """Return a function that writes a small study's config, changed as asked, and its path."""

    def write(**changes) -> Path:
        values = {
            "name": "study",
            "runs_dir": str(tmp_path / "runs"),
            "encoder": str(encoders[0]),
            "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
            "budgets": [20, 60],
            "draws": 2,
            "features": {"grid": 2},
            "head": {"kind": "softmax", "steps": 40},
            "scratch": {"recipe": {"steps": 15}, "trials": [{}]},
            "finetune": {"recipe": {"steps": 15, "head_steps": 5}},
            "workers": 2,
            **changes,
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
