"""What a run ran on: versions, device, ranks, threads, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

_PROJECT = Path(__file__).resolve().parent.parent


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return the versions and the machine that a run's numbers depend on, fit for JSON."""
    import torch

    device: torch.device = accelerator.device
    return {
        "underlayer": project_version(),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": importlib.metadata.version("accelerate"),
        "platform": platform.platform(),
        "device": device.type,
        "device_name": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        ),
        "ranks": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def project_version() -> str:
    """Return Underlayer's version, also from a checkout that is not installed."""
    try:
        return importlib.metadata.version("underlayer")
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((_PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
        return project["project"]["version"]


def git_commit() -> str | None:
    """Return the checkout's commit, "+changes" behind it where files differ; None without one."""
    if not (_PROJECT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PROJECT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
