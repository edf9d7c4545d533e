"""Shards from a server beside the same images left in shards here.

    python -m benchmarks.streaming [--rounds 3] [--steps 1000] [--gigabytes 50] [--picture FILE]

Photographs are made up (224 pixels, JPEG of quality 85, as in benchmarks.data) and packed into ten
shards in a temporary folder. A server on this machine, nginx where it is installed, gives them as
many names as are asked for: to the reader each name is a shard of its own. Measured are

- the rate of batches from such shards, of an empty cache, beside that of `indexed` from the folder,
  over http and, where s3fs is installed, by S3's protocol (the server ignores signatures), and
  beside that of streaming from the folder;
- the memory of a process that reads so many gigabytes, which is to stay below 500 MiB and flat;
- the time to the first batch of 10,000 shards, of an empty cache and of one that holds them;
- the order of 10^6 shards of 10^10 images: its memory and the time that it takes for a step.

The server works on the same cores. Prints tables; exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparison import Comparison, check, report
from benchmarks.data import photographs
from benchmarks.interleaved import images_per_second
from benchmarks.shard_servers import web_server
from data.batches import Batches
from data.dataset import DatasetInfo, write_dataset_info
from data.reading import open_images
from data.shard_size import ShardSize
from data.shard_writer import ShardWriter
from data.store import ReadingConfig
from data.stream_order import StreamOrder
from data.streamed_store import CacheConfig, StreamingConfig, open_streamed
from pages.figures import new_figure, png

BATCH, SHARDS, NAMES = 64, 10, 10_000
OF_INDEXED = 0.8
MOST_MIB, MOST_GROWTH = 500.0, 1.05
FIRST_SECONDS, AGAIN_SECONDS = 2.0, 0.5
_MOST_CACHE = "1500MB"


def write_shards(folder: Path, images: int) -> int:
    """Write the shards, and a dataset.json of all their names; return the bytes of one."""
    encoded = photographs(images, 224)
    for number in range(SHARDS):
        with ShardWriter(folder, f"s{number}", ShardSize(images, None)) as writer:
            for place in range(images):
                key = f"{number}-{place:05d}"
                writer.add(key, "jpg", encoded[(place + number) % images], None)
        (folder / writer.names[0]).rename(folder / f"shard-{number}.tar")
    names = [f"train-{number:06d}.tar" for number in range(NAMES)]
    info = DatasetInfo(
        name="photographs",
        source="made up",
        licence="none",
        labeled=False,
        classes=None,
        image_shape=(3, 224, 224),
        counts={"train": NAMES * images},
        shards={"train": names},
        shard_counts=dict.fromkeys(names, images),
        fingerprint="none",
        recipe="none",
    )
    write_dataset_info(folder, info)
    return (folder / "shard-0.tar").stat().st_size


def streamed(spec: str, cache: Path, endpoint: str | None = None) -> Callable[[], None]:
    """Return a function that asks for the next batch."""
    options = {} if endpoint is None else {"endpoint_url": endpoint}
    streaming = StreamingConfig(
        cache=CacheConfig(folder=str(cache), size=_MOST_CACHE), storage_options=options
    )
    store = open_streamed(ReadingConfig(), spec, streaming, held_out=0)
    order = store.order(batch_size=BATCH, seed=0)
    batches = Batches(store.images, batch_size=BATCH, seed=0, order=order)
    steps = iter(range(10**9))
    return lambda: batches.batch(next(steps)) and None


def indexed(shards: Path) -> Callable[[], None]:
    """Return a function that asks for the next batch of the same images here."""
    store = open_images(ReadingConfig(), str(shards / "shard-*.tar"), "indexed")
    batches = Batches(store.images, batch_size=BATCH, seed=0)
    steps = iter(range(10**9))
    return lambda: batches.batch(next(steps)) and None


def rates(
    shards: Path, folder: Path, url: str, endpoint: str | None, rounds: int, steps: int
) -> list[Comparison]:
    """Compare batches from servers with batches from here, each time of an empty cache."""
    spec = f"train-{{000000..{NAMES - 1:06d}}}.tar"
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        with (
            tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as empty,
            ExitStack() as stack,
        ):
            loops = {"indexed": (indexed(shards), steps)}
            files = str(shards / f"shard-{{0..{SHARDS - 1}}}.tar")
            loops["files"] = (streamed(files, Path(empty, "files")), steps)
            loops["http"] = (streamed(f"{url}/{spec}", Path(empty, "http")), steps)
            if endpoint is not None:
                loops["S3"] = (streamed(f"s3://bucket/{spec}", Path(empty, "s3"), endpoint), steps)
            for name, (step, count) in loops.items():
                rate = images_per_second(step, count, BATCH)
                found.setdefault(name, []).append(rate)
                print(f"round {number + 1}: {name}: {rate:,.0f} images/s", flush=True)
            stack.callback(loops.clear)
    median = {name: statistics.median(values) for name, values in found.items()}
    return [
        Comparison(f"{name}, of {peer}", median[peer], median[name], target)
        for name, peer, target in (
            ("files", "indexed", None),
            ("http", "indexed", OF_INDEXED),
            ("http", "files", None),
            ("S3", "indexed", OF_INDEXED),
            ("S3", "files", None),
        )
        if name in median
    ]


def _read_all(spec: str, cache: Path, images: int, samples: Path) -> None:
    """In a process of its own: read so many images, and write down its memory in MiB."""
    torch.set_num_threads(1)
    step = streamed(spec, cache)
    page, taken = os.sysconf("SC_PAGE_SIZE"), []
    for _ in range(max(1, images // BATCH)):
        step()
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        taken.append(resident * page / 2**20)
    np.save(samples, np.array(taken))


def memory(
    url: str, folder: Path, shard_bytes: int, images: int, gigabytes: float, picture: Path | None
) -> bool:
    """Measure the memory of a process that reads many shards; whether it is bounded and flat."""
    names = min(NAMES, max(32, round(gigabytes * 1e9 / shard_bytes)))
    spec = f"{url}/train-{{000000..{names - 1:06d}}}.tar"
    samples = folder / "memory.npy"
    began = time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(
        target=_read_all, args=(spec, folder / "memory", names * images, samples)
    )
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"the reading process ended with {process.exitcode}")
    taken, seconds = np.load(samples), time.perf_counter() - began
    read = names * shard_bytes / 1e9
    print(f"\n{names:,} shards, {read:.1f} GB in {seconds:.0f} s: {read / seconds * 1000:.0f} MB/s")
    if picture is not None:
        figure = new_figure(640, 320)
        axes = figure.subplots()
        axes.plot(np.linspace(0, read, len(taken)), taken)
        axes.axhline(MOST_MIB, linestyle="--")
        axes.set(xlabel="gigabytes read", ylabel="resident memory, MiB", ylim=(0, None))
        picture.write_bytes(png(figure))
        print(f"wrote {picture}")
    settled = taken[len(taken) // 10 :]
    first, second = np.array_split(settled, 2)
    bounded = check("most memory, MiB", float(taken.max()), MOST_MIB)
    growth = float(second.max() / first.max())
    return check("most in the second half, of the first", growth, MOST_GROWTH) and bounded


def start_up(url: str, folder: Path) -> bool:
    """Time the first batch of 10,000 shards."""
    spec = f"{url}/train-{{000000..{NAMES - 1:06d}}}.tar"
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        streamed(spec, folder / "start")()
        seconds.append(time.perf_counter() - began)
    print()
    fetched = check("seconds to the first batch of 10,000 shards", seconds[0], FIRST_SECONDS)
    return check("seconds, where the cache has its shards", seconds[1], AGAIN_SECONDS) and fetched


def schedule() -> bool:
    """Walk through the order of 10^10 images."""

    def an_order() -> StreamOrder:
        counts = np.full(10**6, 10**4)
        return StreamOrder(counts, batch_size=4096, seed=0, lanes=64, window=4)

    began = time.perf_counter()
    order = an_order()
    order.places(0)
    made = time.perf_counter() - began
    epoch = len(order) // order.batch_size
    starts = np.linspace(0, epoch - 1, 20).astype(int).tolist()
    first, next_ones = [], []
    for start in starts:
        for step in range(start, start + 5):
            began = time.perf_counter()
            order.places(step)
            (first if step == start else next_ones).append(time.perf_counter() - began)
    print(f"\n{len(order):,} images in 1,000,000 shards: {made:.2f} s to the first step")
    print(
        f"a step of {order.batch_size:,} rows in 64 lanes, somewhere in the epoch: "
        f"{statistics.median(first) * 1000:.0f} ms, each step after it: "
        f"{statistics.median(next_ones) * 1000:.1f} ms"
    )
    tracemalloc.start()
    order = an_order()
    for start in starts:
        order.places(start)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return check("most memory, MiB", peak / 2**20, MOST_MIB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="in a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="batches per round")
    parser.add_argument("--gigabytes", type=float, default=50, help="read to measure memory")
    parser.add_argument("--picture", type=Path, help="a PNG of memory over gigabytes read")
    args = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "none")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "none")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        for name in ("shards", "nginx"):
            (folder / name).mkdir()
        shards = folder / "shards"
        shard_bytes = write_shards(shards, args.images)
        url = stack.enter_context(web_server(shards, folder / "nginx"))
        good = [schedule(), start_up(url, folder)]
        endpoint = url if importlib.util.find_spec("s3fs") else None
        compared = rates(shards, folder, url, endpoint, args.rounds, args.steps)
        good.append(memory(url, folder, shard_bytes, args.images, args.gigabytes, args.picture))
    status = report(compared, "images per second")
    return status if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
