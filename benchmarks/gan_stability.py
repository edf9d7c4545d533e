"""Does a GAN's preset stay well over many seeds, and does its verdict find those that are not?

    python -m benchmarks.gan_stability datasets/fashion-mnist-mini [key=value ...] [--seeds 20]

Trains the preset (default: `configs/pretrain/gan_non_saturating.yaml`) once for each seed as it is,
and once broken on purpose, from seed to seed in turn by

- a learning rate thirty times as high for both players,
- a generator that is not trained,
- a discriminator that takes twenty steps for one of the generator's, at five times its rate, with
  neither augmentation nor penalty,
- a generator whose code changes nothing, so that it has one image to show.

Writes a line for each run to --out as it ends, with the last verdict and what it rests on; runs
that are there already are not taken again. Exits 1 where a broken run is called healthy, or more
than one in twenty of the others is not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import torch

from data.store import ResidentStore, open_store
from pretrain.config import PretrainConfig
from pretrain.gan import Gan
from pretrain.held_out import split_rows
from pretrain.run import make_trainer
from training.compute import make_accelerator
from training.config import load_config
from training.errors import NonFiniteLossError
from training.monitoring import measure

PRESET = Path(__file__).parents[1] / "configs/pretrain/gan_non_saturating.yaml"
RATE = 30
BREAKAGES = {
    "learning rate x 30": [],
    "generator not trained": ["generator_optimizer.lr=1e-12"],
    "discriminator too strong": [
        "objective.d_steps=20",
        "objective.penalty.kind=none",
        "objective.inputs.chance=0",
    ],
    "one mode": [],
}
STRONG_RATE = 5


def verdict(path: Path, overrides: list[str], breakage: str | None, store: ResidentStore) -> str:
    """Train once and return the last verdict, with what it rests on."""
    config = load_config(PretrainConfig, path, overrides)
    lr = config.optimizer.lr
    if breakage == "learning rate x 30":
        config = load_config(PretrainConfig, path, [*overrides, f"optimizer.lr={RATE * lr}"])
    elif breakage == "discriminator too strong":
        faster = f"discriminator_optimizer.lr={STRONG_RATE * lr}"
        config = load_config(PretrainConfig, path, [*overrides, faster])
    trainer = make_trainer(config, store, make_accelerator(config.compute))
    gan = trainer.trainable
    assert isinstance(gan, Gan)
    if breakage == "one mode":
        for part in (gan.generator, gan.generator_average.module):
            part.linear.weight.data.zero_()
        gan.generator.linear.weight.register_hook(torch.zeros_like)
    rows, kept_out = split_rows(len(store), config.data.held_out)
    with tempfile.TemporaryDirectory() as folder:
        monitors = gan.monitors(store.images, rows, kept_out, Path(folder))
        try:
            for step in range(trainer.total_steps):
                trainer.train_step(step, measure=False)
            measure(monitors, trainer, trainer.total_steps)
        except NonFiniteLossError as error:
            gan.note_divergence(str(error))
    said = gan.facts(store.images[:1])["health"]
    assert isinstance(said, str)
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="of the preset")
    parser.add_argument("--preset", type=Path, default=PRESET)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gan_stability.jsonl"))
    args = parser.parse_intermixed_args()

    pattern = str(args.folder / "train-*.tar")
    store = open_store(pattern)
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    done = {(row["broken"], row["seed"]): row["health"] for row in map(json.loads, lines)}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    names = list(BREAKAGES)
    plan = [(broken, seed) for seed in seeds for broken in (None, names[seed % len(names)])]
    for broken, seed in plan:
        if (broken, seed) not in done:
            overrides = [f"data.shards={pattern}", f"seed={seed}", *args.overrides]
            overrides += BREAKAGES[broken] if broken else []
            done[broken, seed] = verdict(args.preset, overrides, broken, store)
            row = {"broken": broken, "seed": seed, "health": done[broken, seed]}
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        print(f"{broken or 'as it is'}, seed {seed}: {done[broken, seed]}", flush=True)
    well = {key: done[key].startswith("healthy") for key in plan}
    alarms = sum(not ok for (broken, _), ok in well.items() if broken is None)
    missed = sum(ok for (broken, _), ok in well.items() if broken is not None)
    print(f"\n{args.seeds} as they are: {alarms} not healthy; {args.seeds} broken: {missed} missed")
    return 0 if missed == 0 and alarms <= math.floor(args.seeds / 20) else 1


if __name__ == "__main__":
    sys.exit(main())
