"""What our loop costs on a GAN over the same step written by hand.

    python -m benchmarks.gan_step datasets/fashion-mnist-mini [--steps 11] [--rounds 15]

The networks, augmentation, lazy penalty, averages, optimizers and batch of a preset (default:
`configs/pretrain/gan_non_saturating.yaml`), on one batch that lies in memory, trained in turn by a
bare loop and by `Trainer.train_step`, eagerly and channels last. Of the penalties, one in eight
steps, two fall into each round of 5 uncounted and 11 counted steps, both among the counted ones.
Medians of the rounds. Prints a table and exits 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import OneBatch, one_batch, our_step, our_trainer
from data.augment import Augment
from data.store import open_store
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.gan import Gan
from pretrain.gradient_penalty import ZeroCentred
from pretrain.objective import to_float
from training.averaging import ema_share
from training.compute import ComputeConfig
from training.config import load_config

PRESET = Path(__file__).parents[1] / "configs/pretrain/gan_non_saturating.yaml"
TARGET = 1 / 1.05


def bare_step(config: PretrainConfig, gan: Gan, source: OneBatch) -> Callable[[], None]:
    """Return a step as one writes it by hand, with the networks of `gan`."""
    objective = gan.config
    penalty = objective.penalty
    assert isinstance(penalty, ZeroCentred) and penalty.fake == 0
    gan.to(source.device, memory_format=torch.channels_last)
    discriminator = torch.nn.Sequential(gan.encoder, gan.head)
    generator = gan.generator
    average = gan.generator_average.module
    augment = Augment(objective.inputs.augment)
    d_optimizer, g_optimizer = (
        torch.optim.AdamW(
            player.parameters(), lr=2e-3, betas=(0.5, 0.95), weight_decay=0.01, fused=True
        )
        for player in (discriminator, generator)
    )
    draw = torch.Generator(source.device).manual_seed(0)
    size, taken = source.batch_size, 0

    def codes() -> torch.Tensor:
        return torch.randn(size, generator.latent, generator=draw, device=source.device)

    def changed(images: torch.Tensor) -> torch.Tensor:
        return augment.apply(images, augment.draw(size, draw))

    def step() -> None:
        nonlocal taken
        taken += 1
        images = to_float(source.batch(0)["images"])
        discriminator.requires_grad_(True)
        with torch.no_grad():
            fakes = generator(
                torch.randn(size, generator.latent, generator=draw, device=source.device)
            )
        real = changed(images)
        logits = discriminator(torch.cat([real, changed(fakes)]))
        loss = (F.softplus(-logits[:size]) + F.softplus(logits[size:])).mean()
        if taken % penalty.every == 0:
            seen = real.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(discriminator(seen).sum(), seen, create_graph=True)
            squares = slope.square().flatten(1).sum(1).mean()
            loss = loss + penalty.every * penalty.real / 2 * squares
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()

        discriminator.requires_grad_(False)
        fakes = generator(codes())
        loss = F.softplus(-discriminator(changed(fakes))).mean()
        g_optimizer.zero_grad()
        loss.backward()
        g_optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                [p for p in average.parameters() if p.is_floating_point()],
                [p for p in generator.parameters() if p.is_floating_point()],
                ema_share(objective.ema, taken),
            )

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards")
    parser.add_argument("--preset", type=Path, default=PRESET)
    parser.add_argument("--steps", type=int, default=11, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    pattern = str(args.folder / "train-*.tar")
    config = load_config(PretrainConfig, args.preset, [f"data.shards={pattern}"])
    store = open_store(pattern)
    source = one_batch(store.images, config.batch_size, ComputeConfig())
    gan = build_objective(config, store.images)
    assert isinstance(gan, Gan)
    total_steps = args.rounds * (args.steps + WARMUP_STEPS)
    trainer = our_trainer(
        config, store.images, source, ComputeConfig(compile=False), total_steps=total_steps
    )
    loops = {"bare loop": bare_step(config, gan, source), "our step": our_step(trainer)}
    rate = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=config.batch_size)
    return report(
        [Comparison("step / bare loop", rate["bare loop"], rate["our step"], TARGET)],
        "images per second",
    )


if __name__ == "__main__":
    sys.exit(main())
