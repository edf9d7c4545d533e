"""What the tests of `training/` share: the digits program, its runs, its processes."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.pretrain.conftest import CONFIG
from tests.pretrain.conftest import config as config
from tests.pretrain.conftest import shards as shards
from tests.processes import run_module

PROGRAM = Path(__file__).with_name("digits_program.py")
ROOT = PROGRAM.parent.parent.parent


@pytest.fixture(scope="session")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_program", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits_program"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The processes that tests compare with use one thread too: sums depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STUDY = """\
base: digits.yaml
runs_dir: runs
overrides: [steps=20, log.every=1]
variants:
  adam: [optimizer.kind=adam, optimizer.lr=0.01]
  slow: [optimizer.kind=sgd, optimizer.lr=1e-4]
  hopeless: [optimizer.kind=sgd, optimizer.lr=1e30, clip.kind=none]
"""


@pytest.fixture(scope="session")
def race(
    shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which a race of three variants was run, one of which diverged; its output."""
    folder = tmp_path_factory.mktemp("race")
    (folder / "digits.yaml").write_text(CONFIG.format(shards=shards / "train-*.tar"))
    (folder / "study.yaml").write_text(STUDY)
    done = run_module("training", "race", "study.yaml", "--jobs", 2, cwd=folder, status=1)
    return folder, done


@pytest.fixture
def accelerator() -> Any:
    from training.compute import ComputeConfig, make_accelerator

    return make_accelerator(ComputeConfig(), cpu=True)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process of the digits program, or of a launcher of it."""
    processes = []

    def start(
        *arguments: str | Path, launcher: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *launcher, str(PROGRAM), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
