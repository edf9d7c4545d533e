"""Every preset of stage one loads, fits the images it is for, and trains."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.config import PretrainConfig
from pretrain.run import make_trainer
from tests.processes import ROOT, run_module
from training.compute import ComputeConfig, make_accelerator
from training.config import load_config

PRESETS = sorted((ROOT / "configs/pretrain").glob("*.yaml"))


@pytest.fixture(scope="module")
def coloured_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 pictures in colour."""
    folder = tmp_path_factory.mktemp("coloured")
    pixels = np.random.default_rng(0).integers(256, size=(64, 28, 28, 3), dtype=np.uint8)
    np.savez(folder / "coloured.npz", images=pixels)
    run_module("data", "pack", folder / "coloured.npz", "--out", folder / "shards")
    return folder / "shards"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_takes_steps(preset: Path, shards: Path, coloured_shards: Path) -> None:
    folder = coloured_shards if preset.stem == "colourization" else shards
    small = [f"data.shards={folder / 'train-*.tar'}", "data.size=28", "batch_size=8"]
    config = load_config(PretrainConfig, preset, small)
    assert config.name == preset.stem
    accelerator = make_accelerator(ComputeConfig(), cpu=True)
    store = config.data.open(config.data.shards)
    trainer = make_trainer(config, store, accelerator, total_steps=20)
    before = [parameter.clone() for parameter in trainer.trainable.parameters()]
    for step in (0, 1):
        trainer.train_step(step)
    after = list(trainer.trainable.parameters())
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


def test_every_preset_is_in_the_index() -> None:
    index = (ROOT / "docs/objectives/README.md").read_text()
    assert [preset.name for preset in PRESETS if f"`{preset.name}`" not in index] == []
