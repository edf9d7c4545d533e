"""What leaving masked cells out of the encoder saves, in images per second.

    python -m benchmarks.masked datasets/fashion-mnist-mini [--steps 3] [--rounds 9]

The masked autoencoder at 75 % and, as its peer, the same objective with a single masked cell, where
all others go through the encoder; by `Trainer.train_step` on one batch that lies in memory,
for the default ViT (patches of 4 pixels, width 192, 6 blocks) and for two convolutional encoders.

Medians of the rounds. Prints a table and exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import one_batch, our_step, our_trainer
from data.store import open_store
from pretrain.config import DataConfig, PretrainConfig
from training.compute import ComputeConfig

BATCH_SIZE = 128
MASK = 0.75
ONE_CELL = 0.01
ENCODERS = {
    "vit": {"kind": "vit"},
    "conv": {"kind": "conv", "stem": 32, "widths": [64, 128]},
    "convnext": {"kind": "convnext", "widths": [64, 128]},
}
# What is elsewhere: the decoder sees all cells, and convolutions are given their neighbours.
TARGETS = {"vit": 2.5, "conv": 1.5, "convnext": 2.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards of 28-pixel images")
    parser.add_argument("--steps", type=int, default=3, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    pattern = str(args.folder / "train-*.tar")
    store = open_store(pattern)
    source = one_batch(store.images, BATCH_SIZE, ComputeConfig())
    loops = {}
    for name, encoder in ENCODERS.items():
        for mask in (ONE_CELL, MASK):
            config = PretrainConfig.model_validate(
                {
                    "name": "benchmark",
                    "steps": 1,
                    "data": DataConfig(shards=pattern),
                    "encoder": encoder,
                    "objective": {"kind": "masked", "mask": mask},
                }
            )
            trainer = our_trainer(
                config,
                store.images,
                source,
                ComputeConfig(compile=False),
                total_steps=args.rounds * (args.steps + WARMUP_STEPS),
            )
            loops[f"{name}, {mask:.0%} masked"] = our_step(trainer)
    rate = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=BATCH_SIZE)
    comparisons = [
        Comparison(
            f"{name}: {MASK:.0%} masked / one cell masked",
            rate[f"{name}, {ONE_CELL:.0%} masked"],
            rate[f"{name}, {MASK:.0%} masked"],
            TARGETS[name],
        )
        for name in ENCODERS
    ]
    return report(comparisons, "images per second")


if __name__ == "__main__":
    sys.exit(main())
