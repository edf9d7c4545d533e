"""The study: every row of the plan that is not there yet, then summary, verdict and report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from downstream.config import CurveConfig
from downstream.costs import forward_flops
from downstream.head_arms import fixed_features, head_cost, head_rows
from downstream.inputs import StudyInputs, open_inputs
from downstream.leaks import check_leaks
from downstream.plan import draw_rows, head_groups, planned_rows, trained_rows
from downstream.results import ResultsFile, Row, RowKey, read_rows
from downstream.trained_arms import expected_steps, train_row
from downstream.workers import train_in_processes
from training.compute import ComputeConfig, make_accelerator
from training.console import format_seconds
from training.run_directory import RunDirectory
from training.signals import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULTS = "results.jsonl"
_EXPORTS = (RESULTS, "summary.json", "report.html", "curve.png", "curve.svg")
_PROGRESS_LINES = 10


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
        finished = _Study(config, inputs, accelerator, results, done).run()
    finally:
        results.close()
        directory.close()
    return folder if finished else None


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


class _Study:
    def __init__(
        self,
        config: CurveConfig,
        inputs: StudyInputs,
        accelerator: Accelerator,
        results: ResultsFile,
        done: set[RowKey],
    ) -> None:
        self.config, self.inputs, self.accelerator = config, inputs, accelerator
        self.results, self.done = results, done
        self.encoder_seeds = [encoder.seed for encoder in inputs.encoders]
        self.draws = draw_rows(inputs, config)

    def run(self) -> bool:
        """Compute what is missing; return whether the study is complete."""
        planned = planned_rows(self.config, self.encoder_seeds)
        missing = len(set(planned) - self.done)
        print(
            f"{self.config.name}: {len(planned)} rows "
            f"(arms: {len(self.config.arms)}, budgets: {len(self.config.budgets)}, "
            f"draws: {self.config.draws}, encoders: {len(self.encoder_seeds)}), "
            f"{missing} to compute",
            flush=True,
        )
        with StopRequest() as stop:
            self._head_rows(stop)
            if not stop.requested:
                self._trained_rows(stop)
        return set(planned) <= self.done

    def _append(self, rows: Sequence[Row]) -> None:
        self.results.append([row for row in rows if row.key not in self.done])
        self.done.update(row.key for row in rows)

    # ------------------------------------------------------------ heads

    def _head_rows(self, stop: StopRequest) -> None:
        # A group is computed whole even where a kill left some of its rows, so that what shares
        # its matrix products is the same in every run.
        groups = [
            group
            for group in head_groups(self.config, self.encoder_seeds)
            if not set(group) <= self.done
        ]
        wanted = np.unique(np.concatenate(self.draws))
        device = self.accelerator.device
        heads = sum(map(len, groups))
        costs = [head_cost(group[0].budget, self.inputs, self.config) for group in groups]
        progress = _Progress("linear heads", heads, sum(costs), first_after=heads // 3)
        for group, cost in zip(groups, costs, strict=True):
            if stop.requested:
                return
            arm, budget, _, seed = group[0]
            # Mapped anew for each group: a study has more features than may fit in memory.
            features = fixed_features(arm, seed, self.inputs, self.config, wanted, device)
            draws = [rows[:budget] for rows in self.draws]
            rows = head_rows(arm, budget, seed, draws, features, self.inputs, self.config, device)
            self._append(rows)
            progress.count(len(group), cost)

    # ------------------------------------------------------------ trained classifiers

    def _trained_rows(self, stop: StopRequest) -> None:
        keys = [k for k in trained_rows(self.config, self.encoder_seeds) if k not in self.done]
        if not keys:
            return
        tasks = [(key, self.draws[key.draw][: key.budget]) for key in keys]
        workers = min(self.config.workers or _cores(), len(tasks))
        if self.accelerator.device.type == "cpu":
            place = f"{workers} processes"
            rows = train_in_processes(tasks, self.config, workers, lambda: stop.requested)
        else:
            place, rows = str(self.accelerator.device), self._train_here(tasks, stop)
        print(f"training {len(keys)} classifiers on {place}", flush=True)
        steps = {key: expected_steps(key, self.config) for key in keys}
        progress = _Progress("classifiers", len(keys), sum(steps.values()), first_after=2 * workers)
        for row in rows:
            self._append([row])
            progress.count(1, steps[row.key])

    def _train_here(
        self, tasks: Sequence[tuple[RowKey, NDArray[np.int64]]], stop: StopRequest
    ) -> Iterator[Row]:
        for key, rows in tasks:
            if stop.requested:
                return
            yield train_row(key, rows, self.inputs, self.config, self.accelerator)


def _cores() -> int:
    """Return how many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Progress:
    """Says how far a list of fits is and how long it takes, from the cost of those done."""

    def __init__(self, noun: str, count: int, cost: int, *, first_after: int) -> None:
        """Say nothing before `first_after` fits are done: the first ones tell little.

        Args:
            noun: what is fitted, in the plural; count: how many; cost: of all, in any unit.
        """
        self._noun, self._all, self._cost, self._first_after = noun, count, cost, first_after
        self._done = self._spent = 0
        self._said = -1
        self._began = time.perf_counter()

    def count(self, fits: int, cost: int) -> None:
        """Count some fits; print a line after the first and then at every tenth of the cost."""
        self._done += fits
        self._spent += cost
        tenth = self._spent * _PROGRESS_LINES // self._cost
        elapsed = time.perf_counter() - self._began
        place = f"{self._done} of {self._all} {self._noun}"
        if self._done == self._all:
            print(f"{place} in {format_seconds(elapsed)}", flush=True)
        elif self._done >= self._first_after and tenth > self._said:
            self._said = tenth
            left = elapsed / self._spent * (self._cost - self._spent)
            print(f"{place}, about {format_seconds(left)} left", flush=True)
