"""Accuracy from suggested labels against as many random ones, on the same encoder.

    python -m benchmarks.suggestions runs/mine/encoder.safetensors 'datasets/mine/train-*.tar' \\
        'datasets/mine/test-*.tar' [--seeds 8]

A softmax head is trained on each set of labels, all stages at grid 4, and scored on the test set.
First labels: 20 and 100 by typicality. Next labels: 100 by each rule, after 100 and after 300
random ones; uncertainty asks the head that those gave. All rules of a seed share what they begin
with, and the random labels of the same seed are what they are compared with: means, and the paired
difference with its 95 % interval. Which images are drawn at random ignores their classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.store import open_store
from downstream.features import FeaturesConfig, extract
from downstream.heads.build import heads_of
from downstream.heads.problems import FittedHead
from downstream.heads.softmax import SoftmaxConfig
from downstream.similarity import fit_similarity
from downstream.statistics import mean_interval, paired_difference
from downstream.typicality import Suggestion, most_typical
from downstream.uncertainty import most_uncertain
from models.artifact import load_encoder
from training.randomness import derive_seed

FIRST = (20, 100)
BEFORE, NEXT = (100, 300), 100
_AT_ONCE = 500
_NONE = np.zeros(0, np.int64)

Rows = NDArray[np.int64]


class Bench:
    """Features of training images [N, F] and test images, and heads on some of the former."""

    def __init__(self, encoder: Path, train: str, test: str) -> None:
        network = load_encoder(encoder)
        config = FeaturesConfig()
        self.std_floor = config.std_floor
        stores = open_store(train), open_store(test)
        assert stores[0].labels is not None and stores[1].labels is not None
        self.labels, self.test_labels = stores[0].labels, stores[1].labels
        self.features, self.test = (
            torch.cat([extract(network, part, config) for part in store.images.split(_AT_ONCE)])
            for store in stores
        )
        self.classes = int(self.labels.max()) + 1
        similarity = fit_similarity(self.features, lambda features: features)
        self.rows = similarity.all_rows(self.features).numpy()

    def head(self, rows: Rows) -> FittedHead:
        """A softmax head that has learnt these rows' labels."""
        at = torch.from_numpy(rows)
        (head,) = heads_of(
            self.features[at][None],
            self.labels[at][None],
            SoftmaxConfig(),
            classes=self.classes,
            std_floor=self.std_floor,
            fold_seeds=[0],
        )
        return head

    def accuracy(self, rows: Rows) -> float:
        """The share of test images that it gets right."""
        return float(
            (self.head(rows).logits(self.test).argmax(1) == self.test_labels).double().mean()
        )

    def probabilities(self, rows: Rows) -> NDArray[np.float32]:
        """What it says of the training images, [N, C]."""
        head = self.head(rows)
        parts = [head.logits(part).softmax(1) for part in self.features.split(_AT_ONCE)]
        found: NDArray[np.float32] = torch.cat(parts).numpy()
        return found


def main() -> None:
    """Measure, and print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    bench = Bench(args.encoder, args.train, args.test)
    scores: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for seed in range(args.seeds):
        for (labels, rule), rows in _sets(bench, seed).items():
            scores.setdefault((labels, rule), {})[seed, 0] = bench.accuracy(rows)
        print(f"seed {seed} done", flush=True)
    for (labels, rule), found in scores.items():
        line = f"{labels:14} {rule:12} {100 * mean_interval(found).mean:5.1f} %"
        difference = paired_difference(found, scores[labels, "random"])
        if rule != "random" and difference is not None and difference.low is not None:
            low, high = 100 * difference.low, 100 * (difference.high or 0)
            line += f"   {100 * difference.mean:+5.1f} to random ({low:+.1f} to {high:+.1f})"
        print(line)


def _sets(bench: Bench, seed: int) -> dict[tuple[str, str], Rows]:
    """Rows to learn, by labels and rule."""

    def generator(purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, f"suggestions/{purpose}"))

    shuffled = generator("random").permutation(len(bench.labels))
    sets: dict[tuple[str, str], Rows] = {}
    for count in FIRST:
        sets[f"{count}", "random"] = shuffled[:count]
        found = most_typical(bench.rows, count, labelled=_NONE, generator=generator("typical"))
        sets[f"{count}", "typicality"] = _rows(found)
    for before in BEFORE:
        known, labels = shuffled[:before], f"{before} + {NEXT}"
        sets[labels, "random"] = shuffled[: before + NEXT]
        typical = most_typical(bench.rows, NEXT, labelled=known, generator=generator("next"))
        sets[labels, "typicality"] = np.r_[known, _rows(typical)]
        unsure = most_uncertain(
            bench.rows,
            bench.probabilities(known),
            NEXT,
            labelled=known,
            classes=[str(label) for label in range(bench.classes)],
            generator=generator("next"),
        )
        sets[labels, "uncertainty"] = np.r_[known, _rows(unsure)]
    return sets


def _rows(found: Sequence[Suggestion]) -> Rows:
    return np.array([one.row for one in found], np.int64)


if __name__ == "__main__":
    main()
