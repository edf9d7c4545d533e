"""The table that every benchmark ends with, and the exit status that it earns."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Comparison:
    """Rates of the peer and of ours, and the ratio that is aimed at; None: nothing is claimed."""

    what: str
    peer: float
    ours: float
    target: float | None

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target


def machine() -> str:
    """Return the processor, cores and torch version in a line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return f"{device}, {os.cpu_count()} cores, torch {torch.__version__}"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")  # only Linux has it; platform knows the architecture at most
    if listed.exists():
        for line in listed.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def report(comparisons: list[Comparison], unit: str) -> int:
    """Print `what | peer | ours | ratio | target` and return 1 where a target is missed, else 0."""
    print(f"\n{machine()}; {unit}\n")
    print("what | peer | ours | ratio | target")
    print("--- | ---: | ---: | ---: | ---:")
    for c in comparisons:
        verdict = "" if c.met else " (missed)"
        target = "" if c.target is None else f"{c.target:.2f}"
        print(f"{c.what} | {c.peer:,.0f} | {c.ours:,.0f} | {c.ratio:.2f}{verdict} | {target}")
    return 0 if all(c.met for c in comparisons) else 1


def check(what: str, found: float, most: float) -> bool:
    """Print a figure beside the most that it may be, and return whether it is no more."""
    met = found <= most
    print(f"{what}: {found:.4f}, at most {most}{'' if met else ' (missed)'}")
    return met
