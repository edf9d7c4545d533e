"""Heads on a graph of unlabelled images against the linear softmax head on the same features.

    python -m benchmarks.graph_heads runs/denoising/encoder.safetensors datasets/fashion-mnist

Builds the graph of all training and test images from their frozen features, which are computed
first, and prints how long it took. Then, for ten draws of 100 labels, each head's accuracy on the
test images less that of the softmax head with the same labels, features and images: the mean over
the draws with its 95 % interval, and whether the head is inductive or transductive. Each row is
appended to --out as it ends. Exits 1 where the graph of 70,000 images or more took 60 s or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.comparison import machine
from downstream.config import CurveConfig, CurveDataConfig
from downstream.features import FeaturesConfig
from downstream.head_arms import FixedFeatures, fixed_features, head_rows, image_graph
from downstream.heads.build import StudyHeadConfig
from downstream.inputs import StudyInputs, open_inputs
from downstream.plan import draw_rows
from downstream.results import Row
from downstream.statistics import paired_difference

HEADS = ("smoothed", "pseudo_labels", "label_propagation", "poisson")
IMAGES, SECONDS = 70_000, 60.0
CPU = torch.device("cpu")


class Bench:
    """One encoder's features of one set, and the rows of heads on them."""

    def __init__(self, args: argparse.Namespace, runs_dir: str) -> None:
        self.config = CurveConfig(
            name="graph-heads",
            runs_dir=runs_dir,
            encoder=args.encoder,
            data=CurveDataConfig(
                train=f"{args.folder}/train-*.tar", test=f"{args.folder}/test-*.tar"
            ),
            budgets=(args.labels,),
            draws=args.draws,
            arms=("frozen",),
            features=FeaturesConfig(flip_average=args.flip_average),
        )
        self.inputs: StudyInputs = open_inputs(self.config)
        self.seed = self.inputs.encoders[0].seed
        everything = np.arange(len(self.inputs.train))
        self.features: FixedFeatures = fixed_features(
            "frozen", self.seed, self.inputs, self.config, everything, CPU
        )

    def rows(self, head: dict[str, Any]) -> list[Row]:
        """Return the rows of a head, one for each draw."""
        draws, config = dict(enumerate(draw_rows(self.inputs, self.config))), self.with_head(head)
        (budget,) = config.budgets
        return head_rows(
            "frozen", budget, self.seed, draws, self.features, self.inputs, config, CPU
        )

    def with_head(self, head: dict[str, Any]) -> CurveConfig:
        """Return the study's config with a head."""
        parsed: Any = TypeAdapter(StudyHeadConfig).validate_python(head)
        return self.config.model_copy(update={"head": parsed})

    def graph_seconds(self) -> float:
        """Build the graph of all images and return how long that took."""
        began = time.perf_counter()
        image_graph(self.features, self.inputs, self.with_head({"kind": "label_propagation"}))
        return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="an encoder.safetensors")
    parser.add_argument("folder", type=Path, help="packed and labelled shards, train and test")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument(
        "--head",
        action="append",
        type=json.loads,
        help="a head as JSON, in place of all four; may be given again",
    )
    parser.add_argument("--flip-average", action="store_true", help="of features")
    parser.add_argument("--out", type=Path, help="file that rows are appended to, as JSON lines")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        images = len(bench.inputs.train) + len(bench.inputs.test)
        seconds = bench.graph_seconds()
        slow = images >= IMAGES and seconds >= SECONDS
        print(f"{machine()}, {torch.get_num_threads()} threads")
        print(f"graph of {images:,} images: {seconds:.1f} s{' (missed)' if slow else ''}\n")
        print(f"head | | accuracy, % | minus softmax, points (95 %), {args.labels} labels | s each")
        print("--- | --- | ---: | ---: | ---:")
        control: dict[tuple[int, int], float] = {}
        for head in [{"kind": "softmax"}, *(args.head or ({"kind": kind} for kind in HEADS))]:
            rows = bench.rows(head)
            if args.out:
                with args.out.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"head": head, **vars(row)}) + "\n" for row in rows)
            scores = {(row.draw, row.seed): row.accuracy for row in rows}
            control = control or scores
            difference = paired_difference(scores, control)
            assert difference is not None
            gap = f"{100 * difference.mean:+.2f}"
            if difference.low is not None and difference.high is not None:
                gap += f" ({100 * difference.low:+.2f} to {100 * difference.high:+.2f})"
            name = ", ".join(
                f"{value}" if k == "kind" else f"{k} {value}" for k, value in head.items()
            )
            accuracy = 100 * float(np.mean(list(scores.values())))
            each = np.mean([row.seconds for row in rows])
            print(f"{name} | {rows[0].inference} | {accuracy:.2f} | {gap} | {each:.1f}", flush=True)
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
