"""Features on disk: what tells them apart, what a transform is fitted on, several processes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from downstream.config import CurveConfig
from downstream.feature_cache import FeatureCache, cache_size, features_folder
from downstream.features import extract
from downstream.head_arms import fixed_features, head_rows
from downstream.inputs import StudyInputs, open_inputs
from downstream.plan import draw_rows
from downstream.projection import fit_projection
from training.config import load_config

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
COMPUTE = """\
import sys
import numpy as np, torch
from downstream.config import CurveConfig
from downstream.head_arms import fixed_features
from downstream.inputs import open_inputs
from training.config import load_config

config = load_config(CurveConfig, sys.argv[1])
inputs = open_inputs(config)
print("ready", flush=True)
sys.stdin.readline()
found = fixed_features("frozen", 3, inputs, config, np.arange(1200), torch.device("cpu"))
print(found.train.astype(float).sum(), found.test.astype(float).sum())
"""


def opened(path: Path) -> tuple[CurveConfig, StudyInputs]:
    config = load_config(CurveConfig, path)
    return config, open_inputs(config)


def test_a_transform_is_fitted_on_the_training_images_alone(study):
    features = {"grid": 2, "transform": "whiten", "components": 30}
    config, inputs = opened(study(features=features))
    every = np.arange(len(inputs.train))
    found = fixed_features("frozen", 3, inputs, config, every, CPU)
    assert found.train.shape == (1200, 30) and found.test.shape == (597, 30)
    centred = found.train.astype(float) - found.train.mean(0)
    assert np.allclose(centred.T @ centred / 1200, np.eye(30), atol=1e-3)

    encoder = inputs.encoders[0].load()
    raw = extract(encoder, inputs.train.images, config.features)
    projection = fit_projection([raw], "whiten", components=30)
    test = projection.apply(extract(encoder, inputs.test.images, config.features))
    assert np.allclose(found.test, test, atol=1e-2)

    # Other test images, and few rows of the training set, change nothing.
    darker = replace(inputs.test, images=inputs.test.images // 2, fingerprint="darker")
    other = fixed_features("frozen", 3, replace(inputs, test=darker), config, every[::100], CPU)
    assert np.allclose(other.train, found.train[::100], atol=1e-5)
    draws = {draw: rows[:60] for draw, rows in enumerate(draw_rows(inputs, config))}
    rows = head_rows("frozen", 60, 3, draws, found, inputs, config, CPU)
    assert all(row.accuracy > 0.6 for row in rows)


def test_features_are_computed_anew_for_whatever_they_depend_on(study):
    config, inputs = opened(study())
    folder = features_folder(config.runs_dir)
    rows = np.array([3, 50])

    def files(of: StudyInputs = inputs, **changes) -> int:
        changed = config.features.model_copy(update=changes)
        asked = config.model_copy(update={"features": changed})
        fixed_features("frozen", 3, of, asked, rows, CPU)
        return len(list(folder.iterdir()))

    assert files() == files(std_floor=0.5) == 2
    assert files(pooling="max") == 4
    assert files(transform="pca") == files(transform="pca", std_floor=0.5) == 7
    assert files(transform="whiten") == 10
    assert files(transform="whiten", components=5) == 13
    others = replace(inputs.train, images=inputs.train.images[:900], fingerprint="others")
    assert files(replace(inputs, train=others), transform="whiten") == 16
    assert files(replace(inputs, train=others)) == 17  # the test set's serve both
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    (folder / ".half-written").write_bytes(bytes(10**6))
    assert cache_size(folder) == f"features: 17 files, {size:.1f} MB in {folder}"
    assert cache_size(folder / "nothing") is None


def test_what_another_process_has_finished_first_is_kept(study):
    """Its transform may be in use already: a second one could turn directions another way."""
    config, inputs = opened(study(features={"grid": 2, "transform": "whiten"}))
    folder = features_folder(config.runs_dir)
    rows = np.arange(100)
    load = inputs.encoders[0].load

    def cache(make_encoder) -> FeatureCache:
        return FeatureCache(folder, "one", make_encoder, config.features, inputs.train, CPU)

    files = {}

    def overtaken():
        cache(load).features(inputs.train, rows)
        files.update({path: path.stat().st_ino for path in folder.iterdir()})
        return load()

    found = cache(overtaken).features(inputs.train, rows)
    assert len(files) == 2  # features and transform, nothing temporary
    assert {path: path.stat().st_ino for path in folder.iterdir()} == files
    assert np.array_equal(found, cache(load).features(inputs.train, rows))


def test_two_processes_at_once_leave_one_whole_file_of_each(study):
    path = study(features={"grid": 2, "transform": "pca"})
    config, inputs = opened(path)
    other = subprocess.Popen(
        [sys.executable, "-c", COMPUTE, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("go\n")
    other.stdin.flush()
    found = fixed_features("frozen", 3, inputs, config, np.arange(1200), CPU)
    said, _ = other.communicate()
    assert other.returncode == 0
    sums = [found.train.astype(float).sum(), found.test.astype(float).sum()]
    assert [float(text) for text in said.split()] == sums
    files = list(features_folder(config.runs_dir).iterdir())
    assert sorted(file.suffix for file in files) == [".npy", ".npy", ".npz"]
