"""Start the project's commands as users do: as processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of a user's shell, with one thread per process: tests share two cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """A port of the loopback interface that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_module(
    module: str, *args: object, cwd: Path | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module args`, and check its exit status."""
    return _run([module, *map(str, args)], cwd, status)


def run_on_ranks(
    ranks: int, module: str, *args: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module args` as torchrun starts it, and check that it succeeds."""
    launcher = ["torch.distributed.run", "--nproc_per_node", str(ranks)]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return _run([*launcher, "-m", module, *map(str, args)], cwd, 0)


def _run(command: list[str], cwd: Path | None, status: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done
