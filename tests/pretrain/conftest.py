"""Small shards of real digits, and the command line as users start it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pretrain.run import pretrain
from tests.processes import run_module

Command = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = """\
name: digits
data: {{shards: {shards}}}
steps: 12
batch_size: 32
encoder: {{kind: conv, widths: [8, 16]}}
objective: {{kind: autoencoder, corruption: {{kind: augment}}}}
checkpoint: {{every: 4}}
log: {{every: 1}}
"""


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 digits, 8x8 doubled to 16x16, in two shards."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    pixels = (digits.images[:300] * 255 / 16).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    np.savez(folder / "digits.npz", images=pixels, labels=digits.target[:300])
    run_module(
        "data", "pack", folder / "digits.npz", "--out", folder / "shards", "--shard-size", 150
    )
    return folder / "shards"


@pytest.fixture
def config(tmp_path: Path, shards: Path) -> Path:
    """A config of a run of 12 short steps."""
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG.format(shards=shards / "train-*.tar"))
    return path


@pytest.fixture
def train(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretrain by CONFIG and overrides in this process, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, resume: bool = False, overwrite: bool = False) -> None:
        quick = [*overrides, "log.trackers=[]"]
        pretrain(str(config), quick, resume=resume, overwrite=overwrite)

    return run


@pytest.fixture
def run_pretrain(tmp_path: Path, config: Path) -> Command:
    """Run `python -m pretrain CONFIG ...` in a folder of the test's own."""

    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        return run_module("pretrain", config, *args, cwd=tmp_path, status=status)

    return run
