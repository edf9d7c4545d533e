"""What each objective costs against a plain autoencoder of its encoder, in images per second.

    python -m benchmarks.objectives datasets/fashion-mnist-mini [PRESET ...] [--rounds 5]

Each preset of configs/pretrain/ in turn, by `Trainer.train_step` on one batch that lies in memory.
Its peer has the preset's encoder, batch and optimizer, and objective.kind autoencoder without any
term, with the mirror decoder. So a figure is what the objective adds: the encoder is in both.

Medians of the rounds, eager. Prints a table and exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import one_batch, our_step, our_trainer
from data.store import open_store
from pretrain.config import PretrainConfig
from training.compute import ComputeConfig
from training.config import load_config

PRESETS = Path("configs/pretrain")
PLAIN = {"kind": "autoencoder", "corruption": {"kind": "none"}}
TARGETS = {"contractive": 1 / 3}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards of 28-pixel images")
    parser.add_argument("presets", nargs="*", help="names of presets; all unless told")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    pattern = str(args.folder / "train-*.tar")
    store = open_store(pattern)
    compute = ComputeConfig(compile=False)
    comparisons = []
    for preset in args.presets or sorted(path.stem for path in PRESETS.glob("*.yaml")):
        ours = load_config(PretrainConfig, str(PRESETS / f"{preset}.yaml"), [])
        values = ours.model_dump(exclude={"decoder"}) | {"objective": PLAIN}
        peer = PretrainConfig.model_validate(values)
        source = one_batch(store.images, ours.batch_size, compute)
        loops = {}
        for name, config in (("plain", peer), (preset, ours)):
            trainer = our_trainer(
                config,
                store.images,
                source,
                compute,
                total_steps=args.rounds * (args.steps + WARMUP_STEPS),
            )
            loops[name] = our_step(trainer)
        rate = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=ours.batch_size)
        comparisons.append(
            Comparison(f"{preset} / plain", rate["plain"], rate[preset], TARGETS.get(preset))
        )
    return report(comparisons, "images per second")


if __name__ == "__main__":
    sys.exit(main())
