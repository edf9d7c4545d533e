"""A study of heads on fixed features: our command against a scikit-learn script, the same rows.

    python -m benchmarks.study runs/denoising/encoder.safetensors datasets/fashion-mnist

Budgets x draws x (a linear head and nearest neighbours on frozen features, a linear head on random
frozen features, another on raw pixels). The features are computed before, and both sides read them
from the same files. Ours is timed as a user meets it: `python -m downstream curve` as a process,
its start, its look for copies among the images and its report included.

The script is given our draws, folds and standardization. It minimizes what our linear heads do, by
LogisticRegressionCV, which begins at each strength where the one before ended, and takes the
strength of least held-out loss from the same grid. Its KNeighborsClassifiers vote as ours do; how
they do is chosen from the same grid, on distances that are computed once, by our function. Of the
ways to use the cores (jobs of joblib x BLAS threads) the one that is fastest on the first draw is
timed.

Prints the times, the largest gap between mean accuracies of an arm at a budget, and a table; exits
with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.comparison import Comparison, check, report
from benchmarks.jobs import in_jobs
from downstream.config import Arm, CurveConfig
from downstream.head_arms import FixedFeatures, fixed_features
from downstream.heads.choosing import choose
from downstream.heads.logistic import LogisticConfig
from downstream.heads.neighbours import SMOOTHING, NeighboursConfig
from downstream.heads.problems import ChosenInside, held_out_folds
from downstream.heads.standardize import standardize
from downstream.results import RESULTS, Row, read_rows
from downstream.workbench import Workbench, open_workbench
from training.compute import ComputeConfig, make_accelerator
from training.config import dump_config
from training.randomness import derive_seed

BUDGETS = (10, 20, 50, 100, 250, 500, 1000, 3000)
# As near to the minimum as scikit-learn's own tolerance lets its heads come.
LINEAR = LogisticConfig(tolerance=3e-4)
NEIGHBOURS = NeighboursConfig()
BY_NEIGHBOURS = "neighbours"
ARMS = ("frozen", "random_frozen", "raw_logistic", {"name": BY_NEIGHBOURS, "head": NEIGHBOURS.kind})
MOST_SECONDS, MOST_GAP, TARGET = 180.0, 0.003, 3.0

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
Scores = dict[tuple[Arm, int, int], float]
"""Accuracies by arm, budget and draw."""


@dataclass(frozen=True)
class Task:
    """A row that the script computes.

    Fields:
        learnt, scored: files of features float32 [R, F] and [M, F].
        places: of the labels among the rows of `learnt` [N]; labels: int64 [N].
        truth: int64 [M].
        splits: (learnt from, held out) of each fold, places among the N; none where too few.
    """

    key: tuple[Arm, int, int]
    learnt: NDArray[np.float32]
    scored: NDArray[np.float32]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    truth: NDArray[np.int64]
    splits: list[Split]
    std_floor: float

    def rows(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return standardized rows [N, F], and the mean and scale [F] that made them."""
        raw = torch.from_numpy(self.learnt[self.places])
        rows, made = standardize(raw, floor=self.std_floor, rotate=False)
        return rows.numpy(), made.mean.numpy(), made.scale.numpy()


def linear_accuracy(task: Task) -> float:
    """Choose a strength and fit a linear head; return the share of test rows that it gets right."""
    rows, mean, scale = task.rows()
    inverse = [1 / strength for strength in LINEAR.strengths]
    if task.splits:
        head = LogisticRegressionCV(
            Cs=inverse,
            l1_ratios=(0,),
            cv=task.splits,
            scoring="neg_log_loss",
            max_iter=1000,
            use_legacy_attributes=False,
        )
    else:
        head = LogisticRegression(C=inverse[-1], max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(rows, task.labels)
    weight = (head.coef_ / scale).T.astype(np.float32)
    scores = task.scored @ weight + (head.intercept_ - mean @ weight)
    return float((head.classes_[scores.argmax(axis=1)] == task.truth).mean())


def neighbours_accuracy(task: Task) -> float:
    """Choose how neighbours vote; return the share of test rows that they get right."""
    rows, mean, scale = task.rows()
    known = directions(rows)
    grid = [
        (count, temperature)
        for temperature in NEIGHBOURS.vote_temperatures
        for count in NEIGHBOURS.neighbours
    ]
    scores, truth = [], []
    for learnt, held_out in task.splits:
        among = euclidean_distances(known[learnt])
        between = euclidean_distances(known[held_out], known[learnt])
        nearest = np.sort(between, axis=1)
        votes = []
        for count, temperature in grid:
            head = voters(count, temperature, len(learnt), metric="precomputed")
            head.fit(among, task.labels[learnt])
            cast = vote_weights(nearest[:, :count], temperature).sum(axis=1, keepdims=True)
            votes.append(torch.from_numpy(head.predict_proba(between) * cast))
        scores.append((torch.stack(votes) + SMOOTHING).log())
        truth.append(torch.from_numpy(task.labels[held_out]))
    best = grid[-1]
    if scores:
        # scikit-learn has no temperature of the scores, by which ours compares settings.
        choice = choose(torch.cat(scores, dim=1), torch.cat(truth), folds=len(scores))
        best = grid[choice.setting]
    head = voters(*best, len(known), metric="euclidean").fit(known, task.labels)
    predicted = head.predict(directions((task.scored - mean) / scale))
    return float((predicted == task.truth).mean())


def directions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows divided by their lengths: of these, distances tell cosines."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def voters(count: int, temperature: float, known: int, *, metric: str) -> KNeighborsClassifier:
    """Return neighbours that vote with the weight exp(cosine / temperature)."""
    return KNeighborsClassifier(
        min(count, known),
        weights=partial(vote_weights, temperature=temperature),
        algorithm="brute",
        metric=metric,
    )


def vote_weights(distances: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    nearest = distances.min(axis=1, keepdims=True)
    weights: NDArray[np.float32] = np.exp(
        (np.square(nearest) - np.square(distances)) / (2 * temperature)
    )
    return weights


def accuracy(task: Task, threads: int) -> float:
    """Return the accuracy of a task's row."""
    torch.set_num_threads(threads)
    return (neighbours_accuracy if task.key[0] == BY_NEIGHBOURS else linear_accuracy)(task)


def peer(tasks: Sequence[Task], jobs: int, threads: int) -> Scores:
    """Compute rows in some processes of some threads each, the longest first."""
    ordered = sorted(tasks, key=lambda task: -len(task.places))
    found = in_jobs([partial(accuracy, task, threads) for task in ordered], jobs, threads)
    return {task.key: own for task, own in zip(ordered, found, strict=True)}


def ours(config: CurveConfig, folder: Path) -> Scores:
    """Run our command; return the accuracies of its rows."""
    path = folder / "study.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "downstream", "curve", str(path), "--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = read_rows(Path(config.runs_dir, config.name, RESULTS), Row)
    return {(row.arm, row.budget, row.draw): row.accuracy for row in rows}


def tasks_of(bench: Workbench) -> list[Task]:
    """Return the rows of a study as the script is given them."""
    config, inputs = bench.config, bench.inputs
    rows = np.unique(np.concatenate(bench.draws))
    tasks = []
    of_arm: dict[Arm, FixedFeatures] = {}
    for group in bench.groups():
        arm, _, _, seed = group[0]
        head: ChosenInside = NEIGHBOURS if arm == BY_NEIGHBOURS else LINEAR
        if arm not in of_arm:
            device = torch.device("cpu")
            of_arm[arm] = fixed_features(arm, seed, inputs, config, rows, device)
        features = of_arm[arm]
        for key in group:
            labelled = bench.draws[key.draw][: key.budget]
            labels = inputs.train.labels[torch.from_numpy(labelled)]
            fold_seed = derive_seed(config.seed, "head/folds", key.draw)
            folds = held_out_folds(labels[None], head, [fold_seed])
            fold = np.zeros(0, np.int64) if folds is None else folds[0].numpy()
            splits = [
                (np.flatnonzero(fold != number), np.flatnonzero(fold == number))
                for number in range(fold.max(initial=-1) + 1)
            ]
            tasks.append(
                Task(
                    (arm, key.budget, key.draw),
                    features.train,
                    features.test,
                    np.searchsorted(rows, labelled),
                    labels.numpy(),
                    inputs.test.labels.numpy(),
                    splits,
                    config.features.std_floor,
                )
            )
    return tasks


def largest_gap(mine: Scores, theirs: Scores) -> float:
    """Print mean accuracies where they differ most; return the largest gap, a fraction."""
    cells: dict[tuple[Arm, int], list[float]] = {}
    for key, own in mine.items():
        cells.setdefault(key[:2], []).append(own - theirs[key])
    gaps = {cell: statistics.fmean(differences) for cell, differences in cells.items()}
    worst = max(gaps, key=lambda cell: abs(gaps[cell]))
    arm, budget = worst
    print(f"ours is {100 * gaps[worst]:+.2f} points from the script's: {arm}, {budget} labels")
    return abs(gaps[worst])


def timed(what: str, action: partial[Scores]) -> tuple[float, Scores]:
    began = time.perf_counter()
    scores = action()
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.1f} s", flush=True)
    return seconds, scores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="an encoder.safetensors")
    parser.add_argument("folder", help="packed and labelled shards, train and test")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--ways",
        nargs="+",
        default=sorted({f"{cores}x1", f"1x{cores}", "1x1"}),
        help="jobs x threads of the script to choose from; all that make sense unless told",
    )
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        config = CurveConfig.model_validate(
            {
                "name": "study",
                "runs_dir": temporary,
                "encoder": args.encoder,
                "data": {split: f"{args.folder}/{split}-*.tar" for split in ("train", "test")},
                "budgets": args.budgets,
                "draws": args.draws,
                "arms": ARMS,
                "head": LINEAR.model_dump(),
            }
        )
        bench = open_workbench(config, make_accelerator(ComputeConfig(), cpu=True))
        bench.prepare(bench.groups())
        tasks = tasks_of(bench)
        first = [task for task in tasks if task.key[2] == 0]
        seconds = {
            (jobs, threads): timed(
                f"scikit-learn, first draw, {jobs} x {threads}",
                partial(peer, first, jobs, threads),
            )[0]
            for jobs, threads in (map(int, way.split("x")) for way in args.ways)
        }
        jobs, threads = min(seconds, key=seconds.__getitem__)
        name = f"scikit-learn, {jobs} x {threads}"
        own_times, peer_times = [], []
        for _ in range(args.rounds):
            own, mine = timed("ours", partial(ours, config, Path(temporary)))
            other, theirs = timed(name, partial(peer, tasks, jobs, threads))
            own_times.append(own)
            peer_times.append(other)
    took, peer_took = statistics.median(own_times), statistics.median(peer_times)
    checks = [
        check("our seconds", took, MOST_SECONDS),
        check("largest gap of mean accuracy", largest_gap(mine, theirs), MOST_GAP),
    ]
    rates = 60 * len(tasks) / peer_took, 60 * len(tasks) / took
    missed = report([Comparison(f"ours / {name}", *rates, TARGET)], "rows per minute")
    return missed if all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())
