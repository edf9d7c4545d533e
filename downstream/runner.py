"""Rows that are computed into a run directory, those that are missing: what studies share.

A row is a dataclass with a `key`; a group is the keys of rows that are computed together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Generic

import torch
from accelerate import Accelerator

from data.cores import available_cores
from downstream.bench import Bench
from downstream.ranks import ALONE, Ranks
from downstream.results import (
    PARTS,
    RESULTS,
    Key,
    KeyedRow,
    ResultsFile,
    merge_parts,
    new_part,
    read_file,
    read_rows,
)
from downstream.rows_config import RowsConfig
from downstream.shards import deal
from downstream.workers import compute_in_processes
from training.compute import ComputeConfig, make_accelerator
from training.console import format_seconds
from training.errors import InputError
from training.run_directory import RunDirectory
from training.signals import StopRequest

_PROGRESS_LINES = 20
# Below this, a second's work, starting processes takes longer than it saves.
_FLOPS_WORTH_PROCESSES = 2 * 10**10


def run_rows(
    config: RowsConfig,
    make_bench: Callable[[Accelerator], Bench[Key, KeyedRow]],
    row: type[KeyedRow],
    *,
    overwrite: bool,
    exports: Sequence[str],
    known: Sequence[KeyedRow] = (),
    free: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        config: what a run that goes on must have been begun with, `workers` aside.
        make_bench: picklable; called once here, after a look at the folder, and in each worker.
        row: the class of the rows.
        exports: the other files that the caller writes into the folder.
        known: rows that were computed elsewhere, of which those that are missing here are taken.
        free: keys of the config that change no row, and so may change as the study goes on.
        ranks: the processes that share the rows.
    Returns:
        The folder, or None where rows are missing yet, as where a signal ended it. Where nobody
        waits for the other shards, rows of this process's shard count alone.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    folder = Path(config.runs_dir, config.name)
    # On an accelerator everything runs there, in this process; Apple's lacks double precision.
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    if not ranks.owner:
        ranks.hear()
    directory = RunDirectory.open(
        folder,
        # How many processes share the work changes no row.
        config.model_copy(update={"workers": None}),
        accelerator,
        resume=not (ranks.owner and overwrite),
        overwrite=ranks.owner and overwrite,
        exports=(RESULTS, PARTS, *exports),
        free=free,
    )
    if not (ranks.owner or directory.resumed):
        raise InputError(
            f"{folder}: no study has begun here; begin it by --slurm, which then starts its shards"
        )
    bench = make_bench(accelerator)
    provenance = bench.provenance()
    planned = [key for group in bench.groups() for key in group]
    try:
        if ranks.owner:
            directory.start(provenance)
            _take(known, folder, row, planned)
            ranks.tell(True)
        else:
            directory.check_provenance(provenance)
        own = _own_groups(bench, folder, row, ranks)
        done = {found.key for found in read_rows(folder / RESULTS, row)}
        # A group is computed whole even where a kill left some of its rows, so that what shares
        # its matrix products is the same in every run.
        groups = [group for group in own if not set(group) <= done]
        rows = f"{sum(map(len, groups))} to compute"
        print(f"{ranks.name}{folder.name}: {bench.title()}, {rows}", flush=True)
        with StopRequest() as stop:
            if groups:
                _compute(bench, make_bench, groups, folder, done, stop, config, ranks)
            ranks.wait_for_others(lambda: stop.requested)
        if ranks.owner:
            complete = set(planned) <= merge_parts(folder, row, planned)
            ranks.tell(complete)
        else:
            complete = ranks.hear() and {key for group in own for key in group} <= done
    finally:
        directory.close()
    return folder if complete else None


def _take(
    known: Sequence[KeyedRow], folder: Path, row: type[KeyedRow], planned: Sequence[Key]
) -> None:
    """Merge what earlier processes left, and add known rows that are missing."""
    done = merge_parts(folder, row, planned)
    with closing(ResultsFile(folder / RESULTS)) as results:
        results.append([found for found in known if found.key in set(planned) - done])


def _own_groups(
    bench: Bench[Key, KeyedRow], folder: Path, row: type[KeyedRow], ranks: Ranks
) -> Sequence[tuple[Key, ...]]:
    """Return the groups of this process's shard that results.jsonl lacks.

    Rows in parts count for nothing here: they come while others deal, and all must deal alike.
    """
    if ranks.shard is None:
        return []
    merged = {found.key for found in read_file(folder / RESULTS, row)}
    groups = [group for group in bench.groups() if not set(group) <= merged]
    return deal(groups, bench.flops, ranks.shard)


def _compute(
    bench: Bench[Key, KeyedRow],
    make_bench: Callable[[Accelerator], Bench[Key, KeyedRow]],
    groups: Sequence[tuple[Key, ...]],
    folder: Path,
    done: set[Key],
    stop: StopRequest,
    config: RowsConfig,
    ranks: Ranks,
) -> None:
    """Compute groups, unless a stop is requested, and add their rows to a file and to `done`."""
    bench.prepare(groups)
    flops = {group: bench.flops(group) for group in groups}
    progress = _Progress(ranks.name, sum(map(len, groups)), flops)

    def stopping() -> bool:
        return ranks.stopping(stop.requested)

    if bench.accelerator.device.type == "cpu" and progress.total > _FLOPS_WORTH_PROCESSES:
        count = min(processes(config, bench.accelerator.device, ranks), len(groups))
        computed = compute_in_processes(groups, make_bench, count, stopping)
    else:
        computed = _compute_here(bench, groups, stopping)
    with closing(ResultsFile(folder / RESULTS if ranks.alone else new_part(folder))) as results:
        for group, rows in computed:
            results.append([row for row in rows if row.key not in done])
            done.update(group)
            progress.count(group)


def _compute_here(
    bench: Bench[Key, KeyedRow],
    groups: Sequence[tuple[Key, ...]],
    stop_requested: Callable[[], bool],
) -> Iterator[tuple[tuple[Key, ...], list[KeyedRow]]]:
    """As `compute_in_processes`, in this process and, on a CPU, in one thread as there."""
    with one_thread():
        for group in groups:
            if stop_requested():
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

    def __init__(self, who: str, rows: int, flops: Mapping[tuple[Key, ...], int]) -> None:
        self._who, self._rows, self._flops = who, rows, flops
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
        place = f"{self._who}{self._done} of {self._rows} rows"
        if self._done == self._rows:
            print(f"{place} in {format_seconds(elapsed)}", flush=True)
        elif part > self._said:
            self._said = part
            left = elapsed / self._spent * (self.total - self._spent)
            print(f"{place}, about {format_seconds(left)} left", flush=True)


def processes(config: RowsConfig, device: torch.device, ranks: Ranks = ALONE) -> int:
    """Return how many processes share a rank's rows: on a CPU as configured, or one per core."""
    if device.type != "cpu":
        return 1
    return config.workers or max(1, available_cores() // ranks.here)
