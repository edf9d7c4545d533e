"""A DCGAN on colour images, by a plain PyTorch loop and by ours.

    python -m benchmarks.dcgan [--precision bf16] [--size 64] [--batch-size 128] [--rounds 5]

Generator and discriminator of Radford et al. 2016 (four convolutions each, 64 to 512 channels,
batch norm, leaky ReLU, non-saturating loss, Adam), the same modules in all loops, on one batch of
noise that lies on the device:

- plain: the loop that tutorials have: NCHW, real and generated images judged one after the other,
  the generator trained on the images that the discriminator has just judged; in bf16 by autocast;
- ours: `Trainer.train_step`: channels last, fresh images for the generator, its moving average,
  and what the log shows; eager and compiled.

Medians of the rounds. Prints a table and exits 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import OneBatch, one_batch, our_step, our_trainer
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.gan import Gan
from pretrain.objective import to_float
from training.compute import ComputeConfig

Precision = Literal["no", "bf16"]
WIDTHS = (64, 128, 256, 512)
TARGET = 1.0


def dcgan(batch_size: int) -> PretrainConfig:
    """Return the config of the networks and of our loop."""
    optimizer = {"kind": "adam", "lr": 2e-4, "betas": (0.5, 0.999)}
    return PretrainConfig.model_validate(
        {
            "name": "dcgan",
            "data": {"shards": "noise"},
            "steps": 1,
            "batch_size": batch_size,
            "encoder": {
                "kind": "conv",
                "widths": WIDTHS,
                "norm": "batch",
                "activation": "leaky_relu",
            },
            "objective": {
                "kind": "gan",
                "generator": {"kind": "conv", "latent": 100, "upsampling": "transposed"},
            },
            "optimizer": optimizer,
        }
    )


def plain_step(
    config: PretrainConfig, images: Tensor, source: OneBatch, precision: Precision
) -> Callable[[], None]:
    """Return a step as tutorials have it, with the networks of `config`."""
    gan = build_objective(config, images)
    assert isinstance(gan, Gan)
    device = source.device
    generator = gan.generator.to(device, memory_format=torch.contiguous_format)
    discriminator = torch.nn.Sequential(gan.encoder, gan.head).to(device)
    d_optimizer, g_optimizer = (
        torch.optim.Adam(player.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for player in (discriminator, generator)
    )
    size = source.batch_size
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def step() -> None:
        real = to_float(source.batch(0)["images"])
        d_optimizer.zero_grad()
        with autocast:
            loss = F.softplus(-discriminator(real)).mean()
        loss.backward()
        with autocast:
            fakes = generator(torch.randn(size, generator.latent, device=device))
            loss = F.softplus(discriminator(fakes.detach())).mean()
        loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        with autocast:
            loss = F.softplus(-discriminator(fakes)).mean()
        loss.backward()
        g_optimizer.step()

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16", help="no: fp32")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8)
    config = dcgan(args.batch_size)
    eager, compiled = (
        ComputeConfig(mixed_precision=args.precision, compile=compiled)
        for compiled in (False, True)
    )
    source = one_batch(images, args.batch_size, eager)

    def ours(compute: ComputeConfig) -> Callable[[], None]:
        total_steps = args.rounds * (args.steps + WARMUP_STEPS)
        return our_step(our_trainer(config, images, source, compute, total_steps=total_steps))

    loops = {
        "plain": plain_step(config, images, source, args.precision),
        "eager": ours(eager),
        "compiled": ours(compiled),
    }
    rate = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=args.batch_size)
    return report(
        [
            Comparison(f"{name} / plain loop", rate["plain"], rate[name], TARGET)
            for name in ("eager", "compiled")
        ],
        f"images of {args.size} pixels per second, {args.batch_size} a batch, "
        + ("fp32" if args.precision == "no" else args.precision),
    )


if __name__ == "__main__":
    sys.exit(main())
