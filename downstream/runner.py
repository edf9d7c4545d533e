"""Rows that are computed into a run directory, those that are missing: what studies share.

A row is a dataclass with a `key`; a group is the keys of rows that are computed together.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol

import torch
from accelerate import Accelerator

from downstream.results import RESULTS, Key, KeyedRow, ResultsFile, read_rows
from downstream.rows_config import RowsConfig
from downstream.workers import compute_in_processes
from training.compute import ComputeConfig, make_accelerator
from training.console import format_seconds
from training.run_directory import RunDirectory
from training.signals import StopRequest

_PROGRESS_LINES = 20
# Below this, a second's work, starting processes takes longer than it saves.
_FLOPS_WORTH_PROCESSES = 2 * 10**10


class Bench(Protocol[Key, KeyedRow]):
    """Computes the rows of groups; the result depends on config and inputs alone."""

    accelerator: Accelerator

    def groups(self) -> Sequence[tuple[Key, ...]]:
        """Return every row that there is to be, those computed together in one group."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return what a continued run must share with its beginning, fit for JSON."""
        ...

    def title(self) -> str:
        """Return in words which rows there are to be."""
        ...

    def prepare(self, groups: Sequence[tuple[Key, ...]]) -> None:
        """Compute what some groups share, before processes divide them."""
        ...

    def compute(self, group: tuple[Key, ...]) -> list[KeyedRow]:
        """Return the rows of a group."""
        ...

    def flops(self, group: tuple[Key, ...]) -> int:
        """Return about how many floating-point operations a group takes."""
        ...


def run_rows(
    config: RowsConfig,
    make_bench: Callable[[Accelerator], Bench[Key, KeyedRow]],
    row: type[KeyedRow],
    *,
    overwrite: bool,
    exports: Sequence[str],
    known: Sequence[KeyedRow] = (),
    free: Sequence[str] = (),
) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        config: what a run that goes on must have been begun with, `workers` aside.
        make_bench: picklable; called once here, after a look at the folder, and in each worker.
        row: the class of the rows.
        exports: the other files that the caller writes into the folder.
        known: rows that were computed elsewhere, of which those that are missing here are taken.
        free: keys of the config that change no row, and so may change as the study goes on.
    Returns:
        The folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    folder = Path(config.runs_dir, config.name)
    # On an accelerator everything runs there, in this process; Apple's lacks double precision.
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    directory = RunDirectory.open(
        folder,
        # How many processes share the work changes no row.
        config.model_copy(update={"workers": None}),
        accelerator,
        resume=not overwrite,
        overwrite=overwrite,
        exports=(RESULTS, *exports),
        free=free,
    )
    bench = make_bench(accelerator)
    directory.start(bench.provenance())
    results = ResultsFile(folder / RESULTS)
    try:
        done = {found.key for found in read_rows(folder / RESULTS, row)}
        planned = {key for group in bench.groups() for key in group}
        taken = [found for found in known if found.key in planned - done]
        results.append(taken)
        done |= {found.key for found in taken}
        # A group is computed whole even where a kill left some of its rows, so that what shares
        # its matrix products is the same in every run.
        groups = [group for group in bench.groups() if not set(group) <= done]
        print(f"{folder.name}: {bench.title()}, {sum(map(len, groups))} to compute", flush=True)
        with StopRequest() as stop:
            if groups:
                _compute(bench, make_bench, groups, results, done, stop, config)
    finally:
        results.close()
        directory.close()
    return folder if planned <= done else None


def _compute(
    bench: Bench[Key, KeyedRow],
    make_bench: Callable[[Accelerator], Bench[Key, KeyedRow]],
    groups: Sequence[tuple[Key, ...]],
    results: ResultsFile,
    done: set[Key],
    stop: StopRequest,
    config: RowsConfig,
) -> None:
    """Compute groups, unless a stop is requested, and add their rows to the results and `done`."""
    bench.prepare(groups)
    progress = _Progress(sum(map(len, groups)), {group: bench.flops(group) for group in groups})
    if bench.accelerator.device.type == "cpu" and progress.total > _FLOPS_WORTH_PROCESSES:
        count = min(processes(config, bench.accelerator.device), len(groups))
        computed = compute_in_processes(groups, make_bench, count, lambda: stop.requested)
    else:
        computed = _compute_here(bench, groups, stop)
    for group, rows in computed:
        results.append([row for row in rows if row.key not in done])
        done.update(group)
        progress.count(group)


def _compute_here(
    bench: Bench[Key, KeyedRow], groups: Sequence[tuple[Key, ...]], stop: StopRequest
) -> Iterator[tuple[tuple[Key, ...], list[KeyedRow]]]:
    """As `compute_in_processes`, in this process and, on a CPU, in one thread as there."""
    with one_thread():
        for group in groups:
            if stop.requested:
                return
            yield group, bench.compute(group)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread on a CPU, as processes that share rows do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Progress(Generic[Key]):
    """Says how far a study is and how long it takes, from the operations done."""

    def __init__(self, rows: int, flops: Mapping[tuple[Key, ...], int]) -> None:
        self._rows, self._flops = rows, flops
        self.total = sum(flops.values())
        self._done = self._spent = 0
        self._said = 0
        self._began = time.perf_counter()

    def count(self, group: tuple[Key, ...]) -> None:
        """Count a group; print a line at every twentieth of the operations."""
        self._done += len(group)
        self._spent += self._flops[group]
        part = self._spent * _PROGRESS_LINES // self.total
        elapsed = time.perf_counter() - self._began
        place = f"{self._done} of {self._rows} rows"
        if self._done == self._rows:
            print(f"{place} in {format_seconds(elapsed)}", flush=True)
        elif part > self._said:
            self._said = part
            left = elapsed / self._spent * (self.total - self._spent)
            print(f"{place}, about {format_seconds(left)} left", flush=True)


def processes(config: RowsConfig, device: torch.device) -> int:
    """Return how many processes share the rows: on a CPU as configured, or one for each core."""
    if device.type != "cpu":
        return 1
    return config.workers or _cores()


def _cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
