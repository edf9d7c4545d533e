"""Pretraining throughput: a plain PyTorch loop over the same shards, our loop, and its bound.

    python -m benchmarks.pretrain_throughput datasets/fashion-mnist-mini [--steps 60]

The same denoising autoencoder (widths 32/64/128, augment-as-corruption, AdamW, batch 256) is
trained in turn by

- the peer: webdataset + Pillow + DataLoader (best of no workers, one for every two cores and one
  for each), eager, NCHW;
- ours: resident store, channels last, the loop that `python -m pretrain` runs;
- one batch: our step on one batch held in memory, which no way of loading can beat.

The three take turns for several rounds, so that a change in the machine's speed meets all of them;
each figure is the median of its rounds. Prints a table and exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from benchmarks.our_loop import OneBatch, our_step, our_trainer
from data.batches import Batches
from data.shards import expand_shards
from data.store import open_store
from models.decoders import build_decoder
from models.encoders import InputContract, build_encoder
from pretrain.config import DataConfig, PretrainConfig
from pretrain.corruption import corrupt
from pretrain.networks import input_contract
from training.compute import ComputeConfig, make_accelerator
from training.randomness import StepDraws

ROUNDS = 3
TARGET_OF_BOUND = 0.95
TARGET_OF_PEER = 1.7


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
    workers = min(workers, len(shards))
    pinned = torch.cuda.is_available()
    return iter(wds.WebLoader(dataset, batch_size=None, num_workers=workers, pin_memory=pinned))


def peer_step(
    config: PretrainConfig,
    batches: Iterator[Tensor],
    contract: InputContract,
    device: torch.device,
) -> Callable[[], None]:
    """Return a function that takes one step of the plain loop at each call."""
    encoder = build_encoder(config.encoder, contract, seed=0)
    decoder = build_decoder(config.decoder, encoder, seed=1)
    network = torch.nn.Sequential(encoder, decoder).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)

    def step() -> None:
        images = next(batches).to(device, non_blocking=True).float().div(255)
        draws = StepDraws(0, 0, images.device, len(images), 0, len(images))
        loss = F.mse_loss(
            network(corrupt(config.objective.corruption, images, draws).images), images
        )
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
    device = make_accelerator(compute).device
    batches = Batches(store.images, batch_size=args.batch_size, seed=0, device=device)

    cores = os.cpu_count() or 1
    total_steps = ROUNDS * (args.steps + WARMUP_STEPS)
    loops = {
        **{
            f"peer, {workers} workers": peer_step(
                config, peer_batches(shards, args.batch_size, workers), contract, device
            )
            for workers in sorted({0, cores // 2, cores})
        },
        **{
            name: our_step(
                our_trainer(config, store.images, source, compute, total_steps=total_steps)
            )
            for name, source in (("one batch", OneBatch(batches)), ("ours", batches))
        },
    }
    median = median_rates(loops, rounds=ROUNDS, steps=args.steps, batch_size=args.batch_size)
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
