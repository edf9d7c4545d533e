"""Two ranks on two cores against two independent processes of one thread each, at once.

    python -m benchmarks.two_ranks datasets/fashion-mnist-mini [--steps 300] [--rounds 3]

`python -m pretrain` on the default autoencoder: as two ranks under torchrun, each with 256 images a
step; then as two runs side by side, 256 images a step each, whose rates are added up.
Rates are those that the runs log, without their first part. They take turns for several rounds;
medians. Prints a table and exits 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.comparison import Comparison, report

TARGET = 0.85
PER_PROCESS = 256
_IGNORED = 0.25
"""Share of the steps before the rate counts: start-up, and one run starting before the other."""


def start(command: list[str], runs: Path, name: str, batch_size: int, args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Start a pretraining run by some launcher."""
    config = runs / "benchmark.yaml"
    config.write_text(f"name: benchmark\ndata: {{shards: '{args.folder}/train-*.tar'}}\n")
    every = max(1, args.steps // 20)
    options = [f"name={name}", f"runs_dir={runs}", f"steps={args.steps}", f"log.every={every}"]
    options += ["log.trackers=[]", f"batch_size={batch_size}", f"checkpoint.every={args.steps}"]
    options += ["compute.compile=false", f"preview.every={args.steps}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "pretrain", str(config), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def rate(run: Path, steps: int) -> float:
    """Return the median images per second of a run's log after its first part."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    late = [line["images_per_second"] for line in lines if line["step"] > _IGNORED * steps]
    return statistics.median(late)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards of 28-pixel images")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    together, apart = [], []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            runs = Path(folder, str(number))
            runs.mkdir()
            both = start([*torchrun, "--nproc_per_node", "2"], runs, "both", 2 * PER_PROCESS, args)
            if both.wait() != 0:
                return 1
            together.append(rate(runs / "both", args.steps))
            pair = [
                start([sys.executable], runs, name, PER_PROCESS, args) for name in ("one", "other")
            ]
            if max(process.wait() for process in pair) > 0:
                return 1
            apart.append(sum(rate(runs / name, args.steps) for name in ("one", "other")))
            print(
                f"round {number + 1}: {together[-1]:,.0f} together, {apart[-1]:,.0f} apart",
                flush=True,
            )
    comparison = Comparison(
        "two ranks / two processes", statistics.median(apart), statistics.median(together), TARGET
    )
    return report([comparison], "images per second")


if __name__ == "__main__":
    sys.exit(main())
