"""What a study would compute, and about how long that takes, before it is run."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from downstream.arms import Arm
from downstream.config import CurveConfig
from downstream.plan import arms_in_order
from downstream.results import RESULTS, Row, read_rows
from downstream.runner import one_thread, processes
from downstream.study import resolve_study
from downstream.workbench import open_workbench
from training.compute import ComputeConfig, make_accelerator
from training.console import format_seconds


@dataclass(frozen=True)
class ArmPlan:
    """Rows of an arm that are missing, and the seconds that one process takes for them."""

    arm: Arm
    rows: int
    seconds: float


@dataclass(frozen=True)
class StudyPlan:
    """What is missing of a study.

    Fields:
        budgets: numbers of labels in all.
        done: rows that are there already.
        processes: how many share the work.
    """

    budgets: tuple[int, ...]
    done: int
    arms: tuple[ArmPlan, ...]
    processes: int

    def __str__(self) -> str:
        counts = ", ".join(f"{budget:,}" for budget in self.budgets)
        lines = [f"budgets: {counts}; {self.done} rows are there already"]
        lines += [
            f"{one.arm}: {one.rows} rows, about {format_seconds(one.seconds)}" for one in self.arms
        ]
        rows, seconds = (
            sum(getattr(one, name) for one in self.arms) for name in ("rows", "seconds")
        )
        together = format_seconds(seconds / self.processes)
        lines.append(f"in all: {rows} rows, about {together} with {self.processes} process(es)")
        return "\n".join(lines)


def plan_study(config: CurveConfig) -> StudyPlan:
    """Say what is missing: the cheapest rows of each arm are computed and timed, the others scaled.

    Nothing is written but cached features, which the study then finds.

    Raises:
        InputError, DataError, ModelError: as the study itself; one line.
    """
    config = resolve_study(config)
    accelerator = make_accelerator(ComputeConfig(), cpu=not torch.cuda.is_available())
    bench = open_workbench(config, accelerator)
    done = {row.key for row in read_rows(Path(config.runs_dir, config.name, RESULTS), Row)}
    groups = [group for group in bench.groups() if not set(group) <= done]
    bench.prepare(groups)
    arms = []
    with one_thread():
        for arm in arms_in_order(config.arm_names):
            own = [group for group in groups if group[0].arm == arm]
            if not own:
                continue
            cheapest = min(own, key=bench.flops)
            began = time.perf_counter()
            bench.compute(cheapest)
            seconds = time.perf_counter() - began
            scale = sum(map(bench.flops, own)) / bench.flops(cheapest)
            arms.append(ArmPlan(arm, sum(map(len, own)), seconds * scale))
    count = processes(config, accelerator.device) if groups else 1
    return StudyPlan(config.budgets, len(done), tuple(arms), count)
