"""Races: the variants of one pretraining config, each a run of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from training.config import load_config
from training.console import format_seconds
from training.errors import InputError
from training.names import RunName
from training.run_reading import Run, read_run
from training.signals import StopRequest

_SECONDS_BETWEEN_LOOKS = 0.1


class RaceConfig(BaseModel):
    """Which variants of which config to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="Config of `python -m pretrain` that all variants share.")
    runs_dir: str = Field(description="Folder of the variants' runs.")
    overrides: tuple[str, ...] = Field(
        default=(), description="key=value in place of the base's, in every variant."
    )
    variants: Mapping[RunName, tuple[str, ...]] = Field(
        min_length=1, description="Name of a variant -> its own key=value."
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(),
        description="Run every variant with each of these seeds, as NAME-seedN; none: once, with "
        "the base's seed.",
    )

    def runs(self) -> dict[str, list[str]]:
        """Return each run's overrides of the base by its name, in the order of the race."""
        found = {}
        for variant, own in self.variants.items():
            for name, seed in self._seeded(variant):
                place = [f"name={name}", f"runs_dir={self.runs_dir}"]
                found[name] = [*self.overrides, *own, *seed, *place]
        return found

    def check(self, config: type[BaseModel], *, source: str) -> None:
        """Refuse a run that is none of the given config: in the last one it would show late.

        Raises:
            InputError: names `source`, the run and its mistake; one line.
        """
        for name, values in self.runs().items():
            try:
                load_config(config, self.base, values)
            except InputError as error:
                raise InputError(f"{source}: run {name}: {error}") from None

    def _seeded(self, variant: str) -> list[tuple[str, list[str]]]:
        if not self.seeds:
            return [(variant, [])]
        return [(f"{variant}-seed{seed}", [f"seed={seed}"]) for seed in self.seeds]


@dataclass(frozen=True)
class RaceResult:
    """How a race ended.

    Attributes:
        failed: names of the runs that did not reach their end by themselves.
        stopped: whether a signal ended the race before its last run.
    """

    failed: list[str]
    stopped: bool


def run_race(race: RaceConfig, *, jobs: int) -> RaceResult:
    """Run all variants, or go on with those that are not finished; print how each ended.

    Each is a process, `python -m pretrain BASE key=value ... --resume`, whose output goes to a
    hidden file beside its run, RUNS_DIR/.NAME.txt. SIGTERM and SIGINT end those that are running
    after a checkpoint.

    Args:
        race: the study.
        jobs: runs at the same time; several share the cores evenly.
    Raises:
        InputError: jobs below 1; one line.
    """
    if jobs < 1:
        raise InputError(f"--jobs: found {jobs}; give 1 or more")
    waiting = list(race.runs().items())
    total, failed = len(waiting), []
    running: dict[str, subprocess.Popen[bytes]] = {}
    Path(race.runs_dir).mkdir(parents=True, exist_ok=True)
    told = False
    with StopRequest() as stop:
        while running or (waiting and not stop.requested):
            while waiting and len(running) < jobs and not stop.requested:
                name, overrides = waiting.pop(0)
                known = Path(race.runs_dir, name).exists()
                words = "is there; what is missing is added" if known else "begins"
                print(f"{name}: {words}, {total - len(waiting)} of {total}", flush=True)
                running[name] = _start(race, name, overrides, jobs)
            if stop.requested and not told:  # once: a second would end what the first began
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
                told = True
            for name in [name for name, process in running.items() if process.poll() is not None]:
                status = running.pop(name).returncode
                succeeded, words = _outcome(race, name, status)
                print(f"{name}: {words}", flush=True)
                if not succeeded and not stop.requested:
                    failed.append(name)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return RaceResult(failed, stopped=stop.requested)


def _start(race: RaceConfig, name: str, overrides: list[str], jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pretrain", race.base, *overrides, "--resume"]
    environment = dict(os.environ)
    if jobs > 1:  # else each would start a thread for every core
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with output_of(race, name).open("wb") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # a terminal's Ctrl-C reaches the race alone, which passes it on once
        )


def output_of(race: RaceConfig, name: str) -> Path:
    """Return the file that holds all that a run has said."""
    return Path(race.runs_dir, f".{name}.txt")


def _outcome(race: RaceConfig, name: str, status: int) -> tuple[bool, str]:
    """Return whether a run reached its end, and how it ended in words."""
    output = output_of(race, name)
    if status != 0:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return False, f"failed with exit status {status}: {last} (all it said: {output})"
    run = read_run(Path(race.runs_dir, name))
    if run.ending in ("finished", "stopped early"):
        return True, f"{run.ending} after {run.steps:,} steps, {_last_loss(run)}"
    return False, f"{run.ending} at step {run.steps:,}; the same race goes on with it"


def _last_loss(run: Run) -> str:
    name, series = next((n, s) for n, s in run.series.items() if n.endswith("loss"))
    return f"{format_seconds(run.seconds)}, {name} {series.values[-1]:.4g}"
