"""What augmentation adds to the training step of a small encoder.

    python -m benchmarks.augment [--rounds 9] [--steps 5] [NAME ...]

A convolutional encoder (widths 32/64/128) under a linear head learns 256 random colour images of 32
pixels, by `Trainer.train_step` on one batch that lies in memory: without augmentation, with each
change alone, and with the usual sets. All take turns. A contrastive step augments and encodes each
view, so that its share is the same.

On a CPU by the processor time of one thread, which other work on the machine hardly changes; on a
GPU by the clock. Medians of the rounds. Prints a table and exits 1 where a step takes more than 1.1
times as long.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import OneBatch, our_step
from data.batches import Batches
from downstream.finetune import COMPUTE, SupervisedTraining
from downstream.recipes import Recipe
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.heads import Classifier
from training.compute import make_accelerator
from training.loop import Trainer
from training.schedules import CosineSchedule

BATCH_SIZE = 256
SIDE = 32
CLASSES = 10
TARGET = 1 / 1.1
OFF: dict[str, Any] = {"horizontal_flip": False, "shift": 0}
COLOURS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "colour_chance": 0.8}
CROP = {"crop_area": (0.2, 1.0), "shift": 0}
AUGMENT = {
    "flip": {**OFF, "horizontal_flip": True},
    "flip and shift": {"shift": 0.125},
    "crop": {**OFF, "crop_area": (0.2, 1.0)},
    "affine": {**OFF, "scale": (0.8, 1.25), "rotation": 10, "shear": 10},
    "brightness and contrast": {**OFF, "brightness": 0.4, "contrast": 0.4},
    "saturation and hue": {**OFF, "saturation": 0.4, "hue": 0.1},
    "grey": {**OFF, "grey": 0.2},
    "blur": {**OFF, "blur": 0.5},
    "solarize": {**OFF, "solarize": 0.1},
    "erasing": {**OFF, "erasing": 0.25},
    "cutout": {**OFF, "cutout": 0.5},
    "flip, shift and cutout": {"shift": 0.125, "cutout": 0.5},
    "flip, crop, colours and erasing": {**CROP, **COLOURS, "erasing": 0.25},
    "SimCLR": {**CROP, **COLOURS, "grey": 0.2, "blur": 0.5},
    "SimCLR and solarize": {**CROP, **COLOURS, "grey": 0.2, "blur": 0.5, "solarize": 0.1},
}
MIXING = {
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
}
NONE = "none"


def recipes() -> dict[str, Recipe]:
    """Return what is compared, by name."""
    named = {NONE: Recipe.model_validate({"augment": OFF})}
    for name, augment in AUGMENT.items():
        named[name] = Recipe.model_validate({"augment": augment})
    for name, mixing in MIXING.items():
        named[name] = Recipe.model_validate({"augment": OFF, "mixing": mixing})
    return named


def trainer(recipe: Recipe, source: OneBatch, total_steps: int) -> Trainer:
    """Return a trainer of a freshly drawn classifier."""
    contract = InputContract(
        channels=3, height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)
    )
    encoder = build_encoder(ConvEncoderConfig(widths=(32, 64, 128)), contract, seed=0)
    return Trainer(
        SupervisedTraining(Classifier(encoder, CLASSES), recipe),
        source,
        total_steps=total_steps,
        schedule=CosineSchedule(),
        compute=COMPUTE,
        seed=0,
        accelerator=make_accelerator(COMPUTE),
    )


def main() -> int:
    named = recipes()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them; all unless told")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if unknown := set(args.names) - set(named):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(named)}")

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH_SIZE, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (BATCH_SIZE,), generator=draw)
    device = make_accelerator(COMPUTE).device
    source = OneBatch(Batches(images, labels, batch_size=BATCH_SIZE, seed=0, device=device))
    clock = time.perf_counter
    if device.type == "cpu":
        torch.set_num_threads(1)
        clock = time.process_time
    total_steps = args.rounds * (args.steps + WARMUP_STEPS)
    wanted = [NONE, *(args.names or [name for name in named if name != NONE])]
    loops = {name: our_step(trainer(named[name], source, total_steps)) for name in wanted}
    rate = median_rates(
        loops, rounds=args.rounds, steps=args.steps, batch_size=BATCH_SIZE, clock=clock
    )
    comparisons = [
        Comparison(f"{name} / {NONE}", rate[NONE], rate[name], TARGET) for name in wanted[1:]
    ]
    return report(comparisons, "images per second")


if __name__ == "__main__":
    sys.exit(main())
