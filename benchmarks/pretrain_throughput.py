"""Pretraining throughput: a plain PyTorch loop over the same shards, our loop, and its bound.

    python -m benchmarks.pretrain_throughput datasets/fashion-mnist-mini [--steps 60]

The same denoising autoencoder (widths 32/64/128, augment-as-corruption, AdamW, batch 256) is
trained in turn by

- the peer: webdataset + Pillow + DataLoader (best of 0, 1 and 2 workers), eager, NCHW;
- ours: resident store, channels last, the loop that `python -m pretrain` runs;
- one batch: our step on one batch held in memory, which no way of loading can beat.

The three take turns for several rounds, so that a change in the machine's speed meets all of them;
each figure is the median of its rounds. Prints a table and exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison import Comparison, report
from data.batches import Batches
from data.shards import expand_shards
from data.store import open_store
from models.decoders import build_decoder
from models.encoders import InputContract, build_encoder
from pretrain.config import DataConfig, PretrainConfig
from pretrain.corruption import corrupt
from pretrain.run import build_objective, input_contract
from training.compute import ComputeConfig, make_accelerator
from training.loop import Trainer
from training.randomness import StepDraws
from training.trainable import Batch

ROUNDS = 3
WARMUP_STEPS = 5
TARGET_OF_BOUND = 0.95
TARGET_OF_PEER = 1.7


class OneBatch:
    """The first batch, again and again: loading at no cost."""

    def __init__(self, batches: Batches) -> None:
        self.batch_size = batches.batch_size
        self._batch = batches.batch(0)

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        return {name: value[start:stop] for name, value in self._batch.items()}


def images_per_second(step: Callable[[], None], steps: int, batch_size: int) -> float:
    """Return the rate of `steps` calls after a few that do not count."""
    for _ in range(WARMUP_STEPS):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * batch_size / (time.perf_counter() - began)


def our_step(trainer: Trainer) -> Callable[[], None]:
    """Return a function that takes the trainer's next step at each call."""
    numbers = iter(range(trainer.total_steps))
    return lambda: (trainer.train_step(next(numbers), measure=False), None)[1]


def decode(sample: dict[str, bytes]) -> Tensor:
    """Decode one sample as webdataset's users do."""
    pixels = np.asarray(Image.open(io.BytesIO(sample["png"])))
    return torch.from_numpy(pixels).unsqueeze(0)


def peer_batches(shards: list[Path], batch_size: int, workers: int) -> Iterator[Tensor]:
    """Yield uint8 batches [B, C, H, W] without end from webdataset and a DataLoader."""
    dataset = (
        wds.WebDataset([str(s) for s in shards], shardshuffle=len(shards), seed=0)
        .shuffle(2000)
        .map(decode)
        .batched(batch_size, partial=False, collation_fn=torch.stack)
        .repeat()  # the pipeline starts over by itself; a new DataLoader would cost the peer time
    )
    return iter(wds.WebLoader(dataset, batch_size=None, num_workers=min(workers, len(shards))))


def peer_step(
    config: PretrainConfig, batches: Iterator[Tensor], contract: InputContract
) -> Callable[[], None]:
    """Return a function that takes one step of the plain loop at each call."""
    encoder = build_encoder(config.encoder, contract, seed=0)
    decoder = build_decoder(config.decoder, encoder, seed=1)
    network = torch.nn.Sequential(encoder, decoder)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)

    def step() -> None:
        images = next(batches).float().div(255)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        loss = F.mse_loss(network(corrupt(config.objective.corruption, images, draws)), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="packed shards of 28-pixel images")
    parser.add_argument("--steps", type=int, default=60, help="measured steps per round")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--compile", action="store_true", help="compile our networks")
    args = parser.parse_args()

    pattern = str(args.folder / "train-*.tar")
    shards = expand_shards(pattern)
    store = open_store(pattern)
    config = PretrainConfig(name="benchmark", steps=1, data=DataConfig(shards=pattern))
    contract = input_contract(store.images)
    compute = ComputeConfig(compile=args.compile)
    batches = Batches(store.images, batch_size=args.batch_size, seed=0)

    def trainer(source: Batches | OneBatch) -> Callable[[], None]:
        return our_step(
            Trainer(
                build_objective(config, contract),
                source,
                total_steps=ROUNDS * (args.steps + WARMUP_STEPS),
                schedule=config.schedule,
                compute=compute,
                seed=0,
                accelerator=make_accelerator(compute),
            )
        )

    loops = {
        **{
            f"peer, {workers} workers": peer_step(
                config, peer_batches(shards, args.batch_size, workers), contract
            )
            for workers in (0, 1, 2)
        },
        "one batch": trainer(OneBatch(batches)),
        "ours": trainer(batches),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(ROUNDS):
        for name, step in loops.items():
            rate = images_per_second(step, args.steps, args.batch_size)
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:,.0f} images/s", flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    best_peer = max((n for n in median if n.startswith("peer")), key=median.__getitem__)
    return report(
        [
            Comparison(
                f"plain loop ({best_peer})", median[best_peer], median["ours"], TARGET_OF_PEER
            ),
            Comparison("one batch in memory", median["one batch"], median["ours"], TARGET_OF_BOUND),
        ],
        "images per second",
    )


if __name__ == "__main__":
    sys.exit(main())
