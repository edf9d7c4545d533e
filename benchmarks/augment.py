"""What augmentation takes of the training step of a small encoder.

    python -m benchmarks.augment [--rounds 40] [NAME ...]

A convolutional encoder (widths 32/64/128) under a linear head learns 256 random colour images of 32
pixels, by `Trainer.train_step` on one batch that lies in memory and is not augmented. In turn with
such steps each change alone, and the usual sets, are drawn for this batch and made. The two are
timed apart, as the difference of two whole steps would drown in what disturbs them. A contrastive
step augments and encodes each view, so that its share is the same.

On a CPU it is the processor time of one thread, on a GPU that of the clock; of each, the lowest
tenth of all rounds, as what else goes on can only add to it. Prints a table of rates, of a step
without and of one with, and exits 1 where the latter takes more than 1.1 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparison import Comparison, report
from benchmarks.our_loop import OneBatch, our_step
from data.augment import Augment, AugmentConfig
from data.batches import Batches
from data.label_mixing import Mixing, MixingConfig
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


def changes(images: Tensor) -> dict[str, Callable[[], object]]:
    """Return functions that augment images [B, C, H, W] in [0, 1] in each way, by name."""
    generator = torch.Generator(images.device).manual_seed(0)

    def augmenting(augment: Augment) -> Callable[[], object]:
        return lambda: augment.apply(images, augment.draw(len(images), generator))

    def mixing(mixing: Mixing) -> Callable[[], object]:
        return lambda: mixing.apply(images, mixing.draw(len(images), generator))

    named = {
        name: augmenting(Augment(AugmentConfig.model_validate(values)))
        for name, values in AUGMENT.items()
    }
    for name, values in MIXING.items():
        named[name] = mixing(Mixing(MixingConfig.model_validate(values)))
    return named


def trainer(source: OneBatch, total_steps: int) -> Trainer:
    """Return a trainer of a freshly drawn classifier on images that are not augmented."""
    contract = InputContract(
        channels=3, height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3)
    )
    encoder = build_encoder(ConvEncoderConfig(widths=(32, 64, 128)), contract, seed=0)
    return Trainer(
        SupervisedTraining(Classifier(encoder, CLASSES), Recipe.model_validate({"augment": OFF})),
        source,
        total_steps=total_steps,
        schedule=CosineSchedule(),
        compute=COMPUTE,
        seed=0,
        accelerator=make_accelerator(COMPUTE),
    )


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return how long the second of two calls takes."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them; all unless told")
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each")
    args = parser.parse_args()

    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH_SIZE, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (BATCH_SIZE,), generator=draw)
    device = make_accelerator(COMPUTE).device
    if device.type == "cpu":
        torch.set_num_threads(1)
    source = OneBatch(Batches(images, labels, batch_size=BATCH_SIZE, seed=0, device=device))
    named = changes(images.to(device).float().div_(255))
    if unknown := set(args.names) - set(named):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(named)}")
    calls: dict[str, Callable[[], object]] = {NONE: our_step(trainer(source, 2 * args.rounds))}
    calls |= {name: named[name] for name in args.names or named}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            taken[name].append(seconds_of(call, device))
    seconds = {name: statistics.quantiles(of, n=10)[0] for name, of in taken.items()}
    without = seconds.pop(NONE)
    comparisons = [
        Comparison(f"{name} / {NONE}", BATCH_SIZE / without, BATCH_SIZE / (without + own), TARGET)
        for name, own in seconds.items()
    ]
    return report(comparisons, "images per second")


if __name__ == "__main__":
    sys.exit(main())
