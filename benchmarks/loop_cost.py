"""What our loop costs over a bare PyTorch loop, and what channels last and compiling save.

    python -m benchmarks.loop_cost datasets/fashion-mnist-mini [--steps 20] [--rounds 15]

The same denoising autoencoder (widths 32/64/128, augment-as-corruption, AdamW, batch 256) on one
batch that lies in memory, trained in turn by

- a bare loop: zero_grad, forward, backward, step; eager, channels last;
- our step, the same arithmetic by `Trainer.train_step`;
- our run: with what a long run adds by default, a log line every 50 steps with its gradient norm,
  and a measurement of health every 50, the most often that the default measures;
- our step, eager, NCHW; and our step, compiled, channels last.

Medians of the rounds. Prints a table and exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import OneBatch, one_batch, our_step, our_trainer
from data.store import open_store
from models.decoders import build_decoder
from models.encoders import InputContract, build_encoder
from pretrain.config import DataConfig, PretrainConfig
from pretrain.corruption import corrupt
from pretrain.networks import input_contract
from pretrain.objective import to_float
from training.compute import ComputeConfig
from training.health import HealthProbe
from training.loop import Trainer
from training.randomness import StepDraws
from training.run_directory import RunDirectory

BATCH_SIZE = 256
LOG_EVERY = 50
TARGET_OF_BARE = 0.97
TARGET_OF_NCHW = 1.3


def bare_step(
    config: PretrainConfig, contract: InputContract, source: OneBatch
) -> Callable[[], None]:
    """Return a step as one writes it by hand, with the same networks, draws and optimizer."""
    encoder = build_encoder(config.encoder, contract, seed=0)
    decoder = build_decoder(config.decoder, encoder, seed=1)
    network = torch.nn.Sequential(encoder, decoder)
    network.to(source.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    corruption, count = config.objective.corruption, source.batch_size

    def step() -> None:
        images = to_float(source.batch(0)["images"])
        draws = StepDraws(0, 0, images.device, count, 0, count)
        loss = F.mse_loss(network(corrupt(corruption, images, draws).images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def run_step(trainer: Trainer, folder: Path, config: PretrainConfig) -> Callable[[], None]:
    """Return a step of ours that logs and measures health as often as a long run does."""
    directory = RunDirectory.open(
        folder, config, trainer.accelerator, resume=False, overwrite=False
    )
    directory.start({})
    probe = HealthProbe(trainer.trainable)
    numbers = iter(range(trainer.total_steps))

    def step() -> None:
        number = next(numbers)
        logged = (number + 1) % LOG_EVERY == 0
        metrics = trainer.train_step(number, measure=logged, probe=probe if logged else None)
        if logged:
            values = {name: float(value) for name, value in metrics.items()}
            directory.log({"step": number + 1, **values})

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards of 28-pixel images")
    parser.add_argument("--steps", type=int, default=20, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    pattern = str(args.folder / "train-*.tar")
    store = open_store(pattern)
    config = PretrainConfig(name="benchmark", steps=1, data=DataConfig(shards=pattern))
    contract = input_contract(store.images)
    source = one_batch(store.images, BATCH_SIZE, ComputeConfig())
    total_steps = args.rounds * (args.steps + WARMUP_STEPS)

    def trainer(**compute: bool) -> Trainer:
        return our_trainer(
            config, store.images, source, ComputeConfig(**compute), total_steps=total_steps
        )

    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "bare loop": bare_step(config, contract, source),
            "our step": our_step(trainer(compile=False)),
            "our run": run_step(trainer(compile=False), Path(folder, "run"), config),
            "eager, NCHW": our_step(trainer(compile=False, channels_last=False)),
            "compiled, channels last": our_step(trainer(compile=True)),
        }
        rate = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=BATCH_SIZE)
    fast = rate["compiled, channels last"]
    return report(
        [
            Comparison("step / bare loop", rate["bare loop"], rate["our step"], TARGET_OF_BARE),
            Comparison("run / bare loop", rate["bare loop"], rate["our run"], TARGET_OF_BARE),
            Comparison(
                "channels last / NCHW, both eager",
                rate["eager, NCHW"],
                rate["our step"],
                TARGET_OF_NCHW,
            ),
            Comparison("compiled / eager NCHW", rate["eager, NCHW"], fast, TARGET_OF_NCHW),
        ],
        "images per second",
    )


if __name__ == "__main__":
    sys.exit(main())
