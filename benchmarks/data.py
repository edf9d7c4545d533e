"""From JPEG shards to batches: raw decoding, webdataset, and images that stay in their shards.

    python -m benchmarks.data [--images 2000] [--rounds 7]

Photographs are made up (smooth noise of many scales, 500 and 224 pixels, JPEG of quality 85) and
packed into shards in a temporary folder. In turn, for several rounds:

- raw: simplejpeg decodes encoded images held in memory, one thread;
- webdataset: its pipeline with simplejpeg, and with Pillow, under a DataLoader with no worker, one
  and two: the best of each;
- ours: `Batches` of images in mode indexed, with one thread and with two.

All give uint8 batches [B, 3, 224, 224], shuffled. Then 64 pixels from images of 500: ours, which
decodes at a reduced scale, beside a whole decoding and Pillow's resize. Then images of 28 pixels
that are held in memory: `Batches` beside torch's index_select, in the order of a randperm for each
epoch. Prints tables; exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor

from benchmarks.comparison import Comparison, report
from benchmarks.interleaved import WARMUP_STEPS, median_rates
from data.batches import Batches
from data.cores import available_cores
from data.indexed import IndexedImages
from data.shard_index import open_index

BATCH, SHARDS = 64, 8
RESIDENT, RESIDENT_BATCH = 60_000, 1024
OF_RAW, OF_WEBDATASET, OF_PILLOW, OF_WHOLE, OF_SELECT = 0.9, 1.7, 2.5, 4.0, 0.9
_SELECT_STEPS = 2000
_QUALITY = 85
_WORKERS = (0, 1, 2)


def photographs(count: int, side: int) -> list[bytes]:
    """Return JPEGs of smooth noise of several scales."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        pixels = np.zeros((side, side, 3))
        for scale in (4, 16, 64, 128):
            coarse = Image.fromarray(rng.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / scale**0.5
        pixels *= 255 / pixels.max()
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
        found.append(file.getvalue())
    return found


def write_shards(images: list[bytes], folder: Path) -> list[Path]:
    """Divide images over shards."""
    folder.mkdir()
    shards = [folder / f"train-{number:06d}.tar" for number in range(SHARDS)]
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w") as tar:
            for place in range(number, len(images), SHARDS):
                info = tarfile.TarInfo(f"{place:06d}.jpg")
                info.size = len(images[place])
                tar.addfile(info, io.BytesIO(images[place]))
    return shards


def _by_simplejpeg(sample: dict[str, bytes]) -> Tensor:
    pixels = simplejpeg.decode_jpeg(sample["jpg"])
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _by_pillow(sample: dict[str, bytes]) -> Tensor:
    pixels = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def webdataset_batches(
    shards: list[Path], decode: Callable[[dict[str, bytes]], Tensor], workers: int
) -> Iterator[Tensor]:
    """Yield uint8 batches [B, C, H, W] without end."""
    dataset = (
        wds.WebDataset([str(shard) for shard in shards], shardshuffle=len(shards), seed=0)
        .shuffle(500)
        .map(decode)
        .batched(BATCH, partial=False, collation_fn=torch.stack)
        .repeat()
    )
    return iter(wds.WebLoader(dataset, batch_size=None, num_workers=workers))


def _next(batches: Iterator[Tensor]) -> Callable[[], None]:
    def step() -> None:
        next(batches)

    return step


def our_batches(shards: list[Path], threads: int, size: int | None = None) -> Callable[[], None]:
    """Return a function that asks for the next batch."""
    images = IndexedImages(
        open_index(shards, None), channels=None, size=size, skip_bad=False, threads=threads
    )
    batches = Batches(images, batch_size=BATCH, seed=0)
    steps = iter(range(10**9))
    return lambda: batches.batch(next(steps)) and None


def _raw(images: list[bytes]) -> Callable[[], None]:
    places = iter(range(10**9))

    def step() -> None:
        for _ in range(BATCH):
            simplejpeg.decode_jpeg(images[next(places) % len(images)])

    return step


def _whole_then_resized(images: list[bytes], size: int) -> Callable[[], None]:
    places = iter(range(10**9))

    def step() -> None:
        for _ in range(BATCH):
            image = Image.open(io.BytesIO(images[next(places) % len(images)]))
            image.resize((size, size), Image.Resampling.BICUBIC)

    return step


def _resident() -> dict[str, Callable[[], None]]:
    """Ways to batches of images in memory: torch's own, and ours."""
    images = torch.randint(256, (RESIDENT, 1, 28, 28), dtype=torch.uint8)
    batches = Batches(images, batch_size=RESIDENT_BATCH, seed=0)
    steps = iter(range(10**9))

    def selected() -> Iterator[Tensor]:
        flat = images.flatten(1)
        while True:
            for rows in torch.randperm(RESIDENT).split(RESIDENT_BATCH):
                yield flat.index_select(0, rows).view(-1, 1, 28, 28)

    return {
        "28 pixels in memory, index_select": _next(selected()),
        "28 pixels in memory, ours": lambda: batches.batch(next(steps)) and None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25, help="batches per round")
    args = parser.parse_args()
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        small, large = photographs(args.images, 224), photographs(args.images // 4, 500)
        shards = write_shards(small, Path(folder, "small"))
        large_shards = write_shards(large, Path(folder, "large"))
        loops: dict[str, Callable[[], None]] = {
            "raw simplejpeg, one thread": _raw(small),
            "ours, 1 thread": our_batches(shards, 1),
            f"ours, {cores} threads": our_batches(shards, cores),
        }
        for name, decode in (("simplejpeg", _by_simplejpeg), ("Pillow", _by_pillow)):
            for workers in _WORKERS:
                batches = webdataset_batches(shards, decode, workers)
                loops[f"webdataset, {name}, {workers} workers"] = _next(batches)
        loops["64 of 500 pixels, decoded whole"] = _whole_then_resized(large, 64)
        loops["64 of 500 pixels, ours, 1 thread"] = our_batches(large_shards, 1, size=64)
        torch.set_num_threads(1)
        rates = median_rates(loops, rounds=args.rounds, steps=args.steps, batch_size=BATCH)
        rates |= median_rates(
            _resident(), rounds=args.rounds, steps=_SELECT_STEPS, batch_size=RESIDENT_BATCH
        )
    best = {
        name: max(rates[f"webdataset, {name}, {workers} workers"] for workers in _WORKERS)
        for name in ("simplejpeg", "Pillow")
    }
    ours = rates[f"ours, {cores} threads"]
    raw, whole = rates["raw simplejpeg, one thread"], rates["64 of 500 pixels, decoded whole"]
    print(f"\n{WARMUP_STEPS} batches of each round do not count")
    return report(
        [
            Comparison("1 thread, of raw simplejpeg", raw, rates["ours, 1 thread"], OF_RAW),
            Comparison(
                "all cores, of webdataset + simplejpeg", best["simplejpeg"], ours, OF_WEBDATASET
            ),
            Comparison("all cores, of webdataset + Pillow", best["Pillow"], ours, OF_PILLOW),
            Comparison(
                "64 of 500 pixels", whole, rates["64 of 500 pixels, ours, 1 thread"], OF_WHOLE
            ),
            Comparison(
                "28 pixels in memory, of index_select",
                rates["28 pixels in memory, index_select"],
                rates["28 pixels in memory, ours"],
                OF_SELECT,
            ),
        ],
        "images per second",
    )


if __name__ == "__main__":
    sys.exit(main())
