"""Do short runs rank presets as full runs do, and is the pick as good as the best?

    python -m benchmarks.recommend datasets/fashion-mnist-mini datasets/cifar10 [key=value ...]

For each packed set: `recommend` under --budget seconds, without labels and with --count labels of
the training images; then the full run of every preset. What a preset is worth in truth is the
accuracy on the test images of a ridge head on all stages, fitted on 1,000 training labels, as the
mean over five draws. Every measurement is a line that is appended to --out as it ends; those that
are there already are not taken again. Prints Spearman's correlation of the rankings with the truth
and how far the pick is behind the best preset. Exits 1 where a pick by labels is more than a point
behind, or its runs took longer than the budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from data.labels import budget_order
from data.store import open_store
from models.artifact import load_encoder
from pretrain.probe import ridge_logits
from pretrain.recommend import PRESETS, make_plan, take_runs
from pretrain.recommendation import recommendation
from pretrain.reference import pooled_features

LABELS = 1000
DRAWS = 5
BEHIND = 0.01


def short_ranking(
    folder: Path, presets: list[str], overrides: list[str], args: argparse.Namespace, count: int
) -> dict[str, Any]:
    """Rank presets by short runs, by so many labels or by none.

    Returns:
        ranking: the presets, the best first; seconds: that the runs took, of the budget.
    """
    shards = str(folder / "train-*.tar")
    plan = make_plan(
        shards,
        presets,
        overrides,
        seconds=args.budget,
        labels=shards if count else None,
        count=count or None,
    )
    runs = take_runs(plan, args.runs / f"recommend-{folder.name}-{count}-{args.budget:g}")
    if runs is None:
        raise SystemExit("stopped; the same command goes on")
    return {
        "ranking": [one.preset for one in recommendation(plan, runs).ranking],
        "seconds": sum(run.seconds for run in runs),
    }


def truth(folder: Path, preset: str, overrides: list[str], args: argparse.Namespace) -> float:
    """Return what the full run of a preset is worth, a fraction in [0, 1]."""
    name = f"full-{folder.name}-{preset}"
    command = [sys.executable, "-m", "pretrain", f"configs/pretrain/{preset}.yaml", f"name={name}"]
    command += [f"runs_dir={args.runs}", f"data.shards={folder}/train-*.tar", *overrides]
    subprocess.run([*command, "--resume"], check=True)
    encoder = load_encoder(args.runs / name / "encoder.safetensors")
    train, test = (open_store(str(folder / f"{split}-*.tar")) for split in ("train", "test"))
    assert train.labels is not None and test.labels is not None
    seen = pooled_features(encoder, test.images, grid=4)
    accuracies = []
    for draw in range(DRAWS):
        rows = torch.from_numpy(budget_order(train.labels.numpy(), draw=draw, seed=0)[:LABELS])
        learned = pooled_features(encoder, train.images[rows], grid=4)
        logits = ridge_logits(learned, train.labels[rows], seen)
        accuracies.append((logits.argmax(1) == test.labels).double().mean().item())
    return sum(accuracies) / len(accuracies)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arguments", metavar="SET|key=value", nargs="+", help="packed sets first")
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--budget", type=float, default=300, help="seconds of short runs in all")
    parser.add_argument("--count", type=int, default=500, help="labels of the short runs")
    parser.add_argument("--runs", type=Path, default=Path("runs/recommend-benchmark"))
    parser.add_argument("--out", type=Path, default=Path("recommend.jsonl"))
    args = parser.parse_intermixed_args()

    overrides = [text for text in args.arguments if "=" in text]
    presets = args.presets.split(",")
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    known: dict[str, Any] = {}
    for row in map(json.loads, lines):
        known[json.dumps(row["key"])] = row["found"]

    def found(key: list[Any], measure: Any, *arguments: Any) -> Any:
        name = json.dumps(key)
        if name not in known:
            known[name] = measure(*arguments)
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "found": known[name]}) + "\n")
        return known[name]

    failed = False
    for folder in (Path(text) for text in args.arguments if "=" not in text):
        rankings = {
            count: found(
                ["ranking", folder.name, presets, overrides, args.budget, count],
                short_ranking,
                folder, presets, overrides, args, count,
            )
            for count in (0, args.count)
        }  # fmt: skip
        worth = {
            preset: found(
                ["truth", folder.name, preset, overrides], truth, folder, preset, overrides, args
            )
            for preset in rankings[args.count]["ranking"]  # those that fit these images
        }
        best = max(worth, key=lambda preset: worth[preset])
        for count, short in rankings.items():
            ranking = short["ranking"]
            places = [-place for place in range(len(ranking))]
            correlation = spearmanr(places, [worth[preset] for preset in ranking]).statistic
            behind = worth[best] - worth[ranking[0]]
            print(
                f"{folder.name}, {count or 'no'} labels, {short['seconds']:.0f} of {args.budget:g} "
                f"s: Spearman {correlation:.2f}; picks {ranking[0]} "
                f"({100 * worth[ranking[0]]:.1f} %), {100 * behind:.1f} points behind {best}"
            )
            failed |= bool(count) and (behind > BEHIND or short["seconds"] > args.budget)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
