"""From images to shards: `python -m data pack` against a script around webdataset's TarWriter.

    python -m benchmarks.packing [--images 20000] [--photographs 2000] [--rounds 3]

In turn, for several rounds, both as processes of their own, their start included:

- arrays: grey images of 28 pixels in an npz become PNG;
- photographs: a folder of JPEGs of 500 pixels becomes JPEGs of 64;
- copies: the same folder's files are stored as they are.

The script reads each image, by Pillow where it has to be decoded, and gives it to a ShardWriter of
1,000 samples a shard. Ours takes as many processes as there are cores; besides, it reads all
headers first, decodes what it copies, and writes checksums, the pixels' hash, mean and standard
deviation. For copies, where that is nearly all the work, nothing is claimed. Exits 1 where a target
is missed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import data
from benchmarks.comparison import Comparison, report
from benchmarks.data import photographs

TARGET = 2.0
BUNDLED = Path(data.__file__).parent / "bundled" / "fashion_mnist_mini.npz"

_SCRIPT = """
import io, sys
from pathlib import Path
import numpy as np
import webdataset as wds
from PIL import Image

kind, source, out = sys.argv[1:]
with wds.ShardWriter(f"{out}/train-%06d.tar", maxcount=1000, verbose=0) as sink:
    if kind == "arrays":
        with np.load(source) as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
        for number, (image, label) in enumerate(zip(images, labels)):
            picture = Image.fromarray(image)
            sink.write({"__key__": f"{number:07d}", "png": picture, "cls": int(label)})
    else:
        files = sorted(Path(source).glob("*/*.jpg"))
        classes = sorted({file.parent.name for file in files})
        for number, file in enumerate(files):
            data = file.read_bytes()
            if kind == "photographs":
                image = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BICUBIC)
                encoded = io.BytesIO()
                image.save(encoded, "JPEG", quality=90)
                data = encoded.getvalue()
            label = classes.index(file.parent.name)
            sink.write({"__key__": f"{number:07d}", "jpg": data, "cls": label})
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    workers = ["--workers", str(os.cpu_count())]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _write_arrays(root / "arrays.npz", args.images)
        _write_folder(root / "folder", args.photographs)
        cases: dict[str, tuple[str, int, list[str], float | None]] = {
            "arrays": ("arrays.npz", args.images, workers, TARGET),
            "photographs": (
                "folder",
                args.photographs,
                [*workers, "--size", "64", "--encode", "jpeg"],
                TARGET,
            ),
            "copies": ("folder", args.photographs, ["--encode", "keep"], None),
        }
        comparisons = []
        for kind, (source, images, options, target) in cases.items():
            script = [sys.executable, "-c", _SCRIPT, kind, str(root / source)]
            pack = [sys.executable, "-m", "data", "pack", str(root / source), *options, "--out"]
            seconds: dict[str, list[float]] = {"webdataset": [], "ours": []}
            for _ in range(args.rounds):
                for name, command in (("webdataset", script), ("ours", pack)):
                    seconds[name].append(_timed(command, root / "out"))
                    print(f"{kind}: {name}: {seconds[name][-1]:.2f} s", flush=True)
            peer, ours = (images / statistics.median(seconds[n]) for n in ("webdataset", "ours"))
            comparisons.append(Comparison(kind, peer, ours, target))
    return report(comparisons, "images per second")


def _timed(command: list[str], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    began = time.perf_counter()
    subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _write_arrays(path: Path, count: int) -> None:
    """So many images of the bundled set, over and over."""
    with np.load(BUNDLED) as arrays:
        rows = np.arange(count) % len(arrays["x_train"])
        np.savez(path, x_train=arrays["x_train"][rows], y_train=arrays["y_train"][rows])


def _write_folder(folder: Path, count: int) -> None:
    for number, jpeg in enumerate(photographs(count, 500)):
        place = folder / f"class-{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(jpeg)


if __name__ == "__main__":
    sys.exit(main())
