"""Linear heads on fixed features: ours, many at once, against scikit-learn's, one by one.

    python -m benchmarks.heads datasets/fashion-mnist [--rounds 3] [--kinds ridge]

210 heads (7 budgets of labels x 5 draws x 6 strengths), logistic and ridge, each on 1,000 random
features (a projection and a ReLU) of the training images, scored on the test images. The peers are
LogisticRegression(solver="lbfgs") and RidgeClassifier at the better of one job with all threads and
one single-threaded job per core. They get the mean and scale that rows are standardized by; ours
works them out, and its rotations, in the time that is measured. All heads of a kind minimize the
same function. Tolerances are such that neither side ends much nearer to the minimum: it is printed
how much.

Medians of the rounds. Accuracies of ours and the peer's must agree in every cell and on average,
and our memory must stay below twice the features': the highest resident memory of a process of its
own (VmHWM in /proc; getrusage counts the parent's too), less what imports took. Prints a table and
exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison import Comparison, check, report
from benchmarks.jobs import in_jobs
from data.labels import budget_order
from data.store import open_store
from downstream.heads.linear import fit_all, on_principal_axes
from downstream.heads.logistic import CrossEntropy, LogisticConfig
from downstream.heads.ridge import decompose
from downstream.heads.standardize import standardize

BUDGETS = (50, 100, 250, 500, 1000, 3000, 10000)
DRAWS = 5
STRENGTHS = LogisticConfig().strengths
STD_FLOOR = 0.1
# Of the largest entry of the gradient; ours is of its length.
PEER_TOLERANCE = 1e-5
TARGETS = {"logistic": 3.0, "ridge": 10.0}
LARGEST_DIFFERENCE, MEAN_DIFFERENCE = 0.003, 0.0005
MEMORY = 2.0
_BYTES_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class Cell:
    """The labels of one budget and draw, and how the peer's rows are standardized.

    Fields:
        rows: of the training images [N]; labels: int64 [N].
        mean, scale: float32 [F].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]


Heads = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights [S, F, C] and biases [S, C] on raw features, of one cell."""


@dataclass(frozen=True)
class Setup:
    """What all ways of fitting are given, and what their heads are judged on.

    Fields:
        path: the features once more, as a file; features: float32 [R, F], of training images.
        test_features: float32 [M, F]; test_labels: int64 [M].
    """

    path: Path
    features: Tensor
    cells: list[Cell]
    test_features: Tensor
    test_labels: Tensor

    def accuracies(self, heads: Sequence[Heads]) -> NDArray[np.float64]:
        """Return the share of test rows that each head gets right, [cells, S]."""
        found = []
        for weights, biases in heads:
            scores = self.test_features @ torch.from_numpy(weights)
            scores += torch.from_numpy(biases)[:, None]
            hits = scores.argmax(dim=2) == self.test_labels
            found.append(hits.double().mean(dim=1).numpy())
        return np.stack(found)

    def losses(self, heads: Sequence[Heads]) -> NDArray[np.float64]:
        """Return what logistic heads minimize, [cells, S]."""
        found = []
        for cell, (weights, biases) in zip(self.cells, heads, strict=True):
            labels = torch.from_numpy(cell.labels)
            scores = self.features[torch.from_numpy(cell.rows)] @ torch.from_numpy(weights)
            scores += torch.from_numpy(biases)[:, None]
            squares = np.square(weights * cell.scale[:, None]).sum(axis=(1, 2))
            penalty = np.array(STRENGTHS) / len(labels) / 2 * squares
            found.append([F.cross_entropy(own.double(), labels).item() for own in scores] + penalty)
        return np.stack(found)


def our_logistic(features: Tensor, cells: Sequence[Cell]) -> list[Heads]:
    """Fit all strengths of all draws of a budget at once, as far as memory goes."""
    config, classes = LogisticConfig(strengths=STRENGTHS), count_classes(cells)
    heads = []
    for group in groups(cells, features.shape[1]):
        prepared = [
            on_principal_axes(*standardize(features[torch.from_numpy(cell.rows)], floor=STD_FLOOR))
            for cell in group
        ]
        labels = torch.from_numpy(np.stack([cell.labels for cell in group]))
        rows = [part for part, _ in prepared]
        solved = fit_all(rows, labels, STRENGTHS, config, CrossEntropy(), classes=classes)
        for number, (_, standardizer) in enumerate(prepared):
            weights, biases = solved.heads(number)
            raw = [
                standardizer.on_raw_features(weight[0], bias[0])
                for weight, bias in zip(weights, biases, strict=True)
            ]
            heads.append(stacked(raw))
    return heads


def our_ridge(features: Tensor, cells: Sequence[Cell]) -> list[Heads]:
    """Fit all strengths of a cell by one decomposition."""
    classes = count_classes(cells)
    heads = []
    for cell in cells:
        rows, standardizer = standardize(
            features[torch.from_numpy(cell.rows)], floor=STD_FLOOR, rotate=False
        )
        ridge = decompose(rows, torch.from_numpy(cell.labels), classes)
        solutions = [ridge.solution(strength) for strength in STRENGTHS]
        heads.append(stacked([standardizer.on_raw_features(*solution) for solution in solutions]))
    return heads


OURS = {"logistic": our_logistic, "ridge": our_ridge}


def peer_estimator(kind: str, strength: float) -> Any:
    """Return scikit-learn's estimator of a kind, which minimizes what ours does."""
    if kind == "ridge":
        return RidgeClassifier(alpha=strength)
    return LogisticRegression(C=1 / strength, tol=PEER_TOLERANCE, max_iter=10_000)


def peer_cell(kind: str, features: NDArray[np.float32], cell: Cell) -> Heads:
    """Fit scikit-learn's heads of a cell, one strength after the other."""
    rows = (features[cell.rows] - cell.mean) / cell.scale
    heads = []
    for strength in STRENGTHS:
        fitted = peer_estimator(kind, strength).fit(rows, cell.labels)
        weight = (fitted.coef_ / cell.scale).T
        bias = fitted.intercept_ - cell.mean @ weight
        heads.append((torch.from_numpy(weight), torch.from_numpy(bias)))
    return stacked(heads)


def peer(kind: str, path: Path, cells: Sequence[Cell], jobs: int, threads: int) -> list[Heads]:
    """Fit scikit-learn's heads of all cells in some processes of some threads each."""
    features = np.load(path, mmap_mode="r")  # which processes share by its name
    return in_jobs([partial(peer_cell, kind, features, cell) for cell in cells], jobs, threads)


def stacked(heads: Sequence[tuple[Tensor, Tensor]]) -> Heads:
    """Return heads, weight [F, C] and bias [C], as those of one cell."""
    weights, biases = zip(*heads, strict=True)
    return torch.stack(weights).float().numpy(), torch.stack(biases).float().numpy()


def count_classes(cells: Sequence[Cell]) -> int:
    return int(max(cell.labels.max() for cell in cells)) + 1


def groups(cells: Sequence[Cell], features: int) -> Iterator[list[Cell]]:
    """Yield cells of one budget, as many as may be fitted at once."""
    for budget in sorted({len(cell.rows) for cell in cells}, reverse=True):
        own = [cell for cell in cells if len(cell.rows) == budget]
        at_once = max(1, _BYTES_AT_ONCE // (4 * budget * max(budget, features)))
        for first in range(0, len(own), at_once):
            yield own[first : first + at_once]


def make_cells(features: Tensor, labels: NDArray[np.int64], budgets: Sequence[int]) -> list[Cell]:
    """Draw the labels of every cell, the largest budgets first."""
    cells = []
    for draw in range(DRAWS):
        order = budget_order(labels, draw=draw, seed=0)
        for budget in budgets:
            rows = order[:budget]
            _, standardizer = standardize(features[torch.from_numpy(rows)], floor=STD_FLOOR)
            mean, scale = standardizer.mean.numpy(), standardizer.scale.numpy()
            cells.append(Cell(rows, labels[rows], mean, scale))
    return sorted(cells, key=lambda cell: -len(cell.rows))


def random_features(images: Tensor, count: int) -> Tensor:
    """Project pixels in [0, 1] at random and cut off what is negative: [N, F]."""
    random = torch.Generator().manual_seed(0)
    pixels = images[0].numel()
    weight = torch.randn(pixels, count, generator=random) * (2 / pixels) ** 0.5
    bias = torch.rand(count, generator=random) - 0.5
    parts = [
        (part.flatten(1).float().div_(255) @ weight + bias).relu_() for part in images.split(5000)
    ]
    return torch.cat(parts)


def our_memory(kind: str, path: Path, cells: Sequence[Cell]) -> int:
    """Return the bytes that loading features and fitting all heads takes, in a fresh process."""
    before = resident("VmRSS")
    OURS[kind](torch.from_numpy(np.load(path)), cells)
    return resident("VmHWM") - before


def resident(line: str) -> int:
    """Return the bytes of resident memory, now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{line}:")[1].split()[0]) * 1024


def compare(kind: str, setup: Setup, rounds: int) -> tuple[Comparison, bool]:
    """Return the rates of a kind of head, and whether accuracies and memory are as they must be."""
    ours, cores = f"our {kind}", os.cpu_count() or 1
    ways = {
        f"scikit-learn, {jobs} x {threads}": partial(
            peer, kind, setup.path, jobs=jobs, threads=threads
        )
        for jobs, threads in sorted({(1, cores), (cores, 1)})
    }
    peers = list(ways)
    ways[ours] = partial(OURS[kind], setup.features)
    for fit in ways.values():
        fit(setup.cells[-cores:])  # the smallest: starts processes and threads
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    heads = {}
    for number in range(rounds):
        for name, fit in ways.items():
            began = time.perf_counter()
            heads[name] = fit(setup.cells)
            seconds[name].append(time.perf_counter() - began)
            print(f"round {number + 1}: {kind}, {name}: {seconds[name][-1]:.2f} s", flush=True)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(peers, key=median.__getitem__)
    mine, theirs = setup.accuracies(heads[ours]), setup.accuracies(heads[best])
    largest, mean = np.abs(mine - theirs).max(), abs(mine.mean() - theirs.mean())
    if kind == "logistic":
        excess = setup.losses(heads[ours]) - setup.losses(heads[best])
        print(f"loss: ours up to {excess.max():.1e} higher, the peer's up to {-excess.min():.1e}")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        taken = pool.submit(our_memory, kind, setup.path, setup.cells).result()
    checks = [
        check(f"{kind}: largest difference of accuracy", largest, LARGEST_DIFFERENCE),
        check(f"{kind}: difference of mean accuracy", mean, MEAN_DIFFERENCE),
        check(f"{kind}: peak memory / features", taken / setup.features.numpy().nbytes, MEMORY),
    ]
    fitted = 60 * mine.size
    rates = fitted / median[best], fitted / median[ours]
    return Comparison(f"{ours} / {best}", *rates, TARGETS[kind]), all(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed and labelled shards, train and test")
    parser.add_argument("--images", type=int, help="training images; all unless told")
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=OURS, default=list(OURS))
    args = parser.parse_args()

    train, test = (open_store(str(args.folder / f"{split}-*.tar")) for split in ("train", "test"))
    if train.labels is None or test.labels is None:
        parser.error(f"{args.folder}: every image needs a label")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        features = random_features(train.images[: args.images], args.features)
        np.save(path, features.numpy())
        cells = make_cells(features, train.labels[: args.images].numpy(), args.budgets)
        test_features = random_features(test.images, args.features)
        setup = Setup(path, features, cells, test_features, test.labels)
        comparisons, agreed = zip(
            *(compare(kind, setup, args.rounds) for kind in args.kinds), strict=True
        )
    missed = report(list(comparisons), "heads per minute")
    return missed if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
