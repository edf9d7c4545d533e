"""A Slurm of two nodes on this machine, and a small pretraining config."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local_slurm import PACKAGES, Slurm, local_slurm, missing_programs
from tests.pretrain.conftest import shards  # noqa: F401 (a fixture)

CONFIG = """\
name: digits
data: {{shards: {shards}}}
steps: 600
batch_size: 32
encoder: {{kind: conv, widths: [8, 16], norm: group}}
objective: {{kind: autoencoder, corruption: {{kind: augment}}}}
compute: {{compile: false}}
log: {{every: 10}}
"""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A running cluster; the tests that ask for it are skipped where Slurm is not installed."""
    if missing := missing_programs():
        pytest.skip(f"not found: {', '.join(missing)}; apt-get install {PACKAGES}")
    with local_slurm(tmp_path_factory.mktemp("slurm"), nodes=2) as cluster:
        yield cluster


@pytest.fixture
def config(tmp_path: Path, shards: Path) -> Path:  # noqa: F811
    """A config of a run of some ten seconds."""
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG.format(shards=shards / "train-*.tar"))
    return path
