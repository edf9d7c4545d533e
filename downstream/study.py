"""The study: every row of the plan that is not there yet, then summary, verdict and report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from downstream.config import CurveConfig
from downstream.costs import forward_flops
from downstream.inputs import StudyInputs, open_inputs
from downstream.leaks import check_leaks
from downstream.plan import Group, planned_rows, row_groups
from downstream.results import ResultsFile, RowKey, read_rows
from downstream.workbench import Workbench, open_workbench
from downstream.workers import compute_here, compute_in_processes
from training.compute import ComputeConfig, make_accelerator
from training.console import format_seconds
from training.run_directory import RunDirectory
from training.signals import StopRequest

RESULTS = "results.jsonl"
_EXPORTS = (RESULTS, "summary.json", "report.html", "curve.png", "curve.svg")
_PROGRESS_LINES = 20
# Below this, a second's work, starting processes takes longer than it saves.
_FLOPS_WORTH_PROCESSES = 2 * 10**10


def run_study(config: CurveConfig, *, overwrite: bool) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Returns:
        The study's folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    # On an accelerator everything runs there, in this process; Apple's lacks double precision.
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    folder = Path(config.runs_dir, config.name)
    # How many processes share the work changes no row.
    directory = RunDirectory.open(
        folder,
        config.model_copy(update={"workers": None}),
        accelerator,
        resume=not overwrite,
        overwrite=overwrite,
        exports=_EXPORTS,
    )
    inputs = open_inputs(config)
    directory.start(_provenance(inputs, config))
    results = ResultsFile(folder / RESULTS)
    try:
        done = {row.key for row in read_rows(folder / RESULTS)}
        bench = Workbench(inputs, config, accelerator)
        with StopRequest() as stop:
            _compute(bench, results, done, stop)
    finally:
        results.close()
        directory.close()
    planned = planned_rows(config, [encoder.seed for encoder in inputs.encoders])
    return folder if set(planned) <= done else None


def _provenance(inputs: StudyInputs, config: CurveConfig) -> dict[str, Any]:
    """Return what a continued study must share with its beginning, fit for JSON."""
    return {
        "seed": config.seed,
        "classes": list(inputs.class_names),
        "data": {
            name: {"fingerprint": s.fingerprint, "images": len(s), "dataset": s.dataset}
            for name, s in (("train", inputs.train), ("test", inputs.test))
        },
        "encoders": [
            {
                "sha256": encoder.sha256,
                "seed": encoder.seed,
                "trained_on": encoder.header.trained_on.model_dump(mode="json"),
            }
            for encoder in inputs.encoders
        ],
        "leaks": check_leaks(inputs).model_dump(mode="json"),
        "flops_per_image": forward_flops(inputs.encoders[0].header),
    }


def _compute(bench: Workbench, results: ResultsFile, done: set[RowKey], stop: StopRequest) -> None:
    """Compute the rows that are not among `done`, unless a stop is requested, and add them."""
    config, device = bench.config, bench.accelerator.device
    seeds = [encoder.seed for encoder in bench.inputs.encoders]
    # A group is computed whole even where a kill left some of its rows, so that what shares its
    # matrix products is the same in every run.
    groups = [group for group in row_groups(config, seeds) if not set(group) <= done]
    rows_left = sum(map(len, groups))
    print(
        f"{config.name}: {len(planned_rows(config, seeds))} rows (arms: {len(config.arms)}, "
        f"budgets: {len(config.budgets)}, draws: {config.draws}, encoders: {len(seeds)}), "
        f"{rows_left} to compute",
        flush=True,
    )
    if not groups:
        return
    bench.prepare(groups)
    progress = _Progress(rows_left, {group: bench.flops(group) for group in groups})
    if device.type == "cpu" and progress.total > _FLOPS_WORTH_PROCESSES:
        opened = partial(open_workbench, config)
        computed = compute_in_processes(groups, opened, config.workers, stop)
    else:
        computed = compute_here(groups, bench.compute, stop)
    for group, rows in computed:
        results.append([row for row in rows if row.key not in done])
        done.update(group)
        progress.count(group)


class _Progress:
    """Says how far a study is and how long it takes, from the operations done."""

    def __init__(self, rows: int, flops: Mapping[Group, int]) -> None:
        self._rows, self._flops = rows, flops
        self.total = sum(flops.values())
        self._done = self._spent = 0
        self._said = 0
        self._began = time.perf_counter()

    def count(self, group: Group) -> None:
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
