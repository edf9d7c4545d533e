"""How many planted leaks `python -m data audit` finds, and what else it reports.

    python -m benchmarks.audit datasets/fashion-mnist [--planted 250] [--seed 0]

The folder is a packed one with train-*.tar and test-*.tar. The audit is run as a user would, twice:
on the images as they are, and with copies of test images in the place of training images, drawn at
random, each an own one. Recall is the share of the planted pairs that are reported. Precision is
the share of planted pairs among those reported which are not reported without planting too: a set
may hold copies of its own.

Kinds: exact; jpeg of quality 75 to 90; shifted by a pixel in one of 8 directions; brightness times
0.7 to 1.3 or plus -40 to 40, clipped. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.decode import decode_image
from data.shards import Sample, expand_shards, iter_samples

Pixels = npt.NDArray[np.uint8]
Names = tuple[str, str]

TARGETS = {"exact": 0.98, "jpeg": 0.98, "shift": 0.9, "brightness": 0.9}
PRECISION, SECONDS = 0.95, 120.0
QUALITIES, GAINS, OFFSETS = (75, 90), (0.7, 1.3), (-40, 40)
DIRECTIONS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def main() -> int:
    """Plant, audit and say what was found; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--planted", type=int, default=250, help="leaks of each kind (250)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = (str(args.folder / f"{split}-*.tar") for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        natural, seconds, cpu = audit(train, test, folder / "natural.json")
        print(f"as it is: {len(natural)} pairs in {seconds:.1f} s ({cpu:.1f} s of CPU)", flush=True)
        planted = plant(train, test, folder, args.planted, args.seed)
        found, seconds, cpu = audit(str(folder / "*.tar"), test, folder / "planted.json")
        # The shards with planted images lie elsewhere: pairs are compared by file name and key.
        known = set(natural)
        bad = False
        for kind, target in TARGETS.items():
            wanted = [pair for pair, of in planted.items() if of == kind]
            recall = sum(pair in found for pair in wanted) / len(wanted)
            bad |= recall < target
            print(f"{kind:10}  recall {recall:.4f}  (at least {target})")
    fresh = [pair for pair in found if pair not in known or pair in planted]
    other = [pair for pair in fresh if pair not in planted]
    precision = 1 - len(other) / max(1, len(fresh))
    print(f"precision   {precision:.4f}  (at least {PRECISION}); {len(fresh)} pairs, besides")
    print(f"            {len(found) - len(fresh)} that are found without planting too")
    for pair in other:
        print(f"            not planted: {pair[0]} {pair[1]}, distance {found[pair]:.4f}")
    print(f"seconds     {seconds:.1f}  (at most {SECONDS:.0f}), of CPU {cpu:.1f}")
    return int(bad or precision < PRECISION or seconds > SECONDS)


def audit(train: str, test: str, out: Path) -> tuple[dict[Names, float], float, float]:
    """Pairs by shard file and key of both, with their distance; seconds, and those of CPU."""
    start, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "data", "audit", "--train", train, "--test", test]
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    pairs = json.loads(out.read_text())["pairs"]
    found = {(_short(one["train"]), _short(one["test"])): one["distance"] for one in pairs}
    return found, time.monotonic() - start, cpu


def plant(train: str, test: str, out: Path, each: int, seed: int) -> dict[Names, str]:
    """Write the training shards with planted images into `out`; kind by pair."""
    random = np.random.default_rng(seed)
    learned = [_short(f"{s.shard}:{s.key}") for s in _samples(train)]
    tests = list(_samples(test))
    count = each * len(TARGETS)
    if not 0 < count <= min(len(learned), len(tests)):
        raise SystemExit(f"--planted: {each} of each kind do not fit {len(tests)} test images")
    rows = random.choice(len(learned), count, replace=False)
    copied = random.choice(len(tests), count, replace=False)
    images: dict[str, Pixels] = {}
    pairs: dict[Names, str] = {}
    for kind, row, at in zip(np.repeat(list(TARGETS), each), rows, copied, strict=True):
        sample = tests[at]
        image = decode_image(sample.image, sample.suffix)
        images[learned[row]] = changed(image, str(kind), random)
        pairs[learned[row], _short(f"{sample.shard}:{sample.key}")] = str(kind)
    for shard in expand_shards(train):
        with tarfile.open(out / shard.name, "w") as tar:
            for sample in iter_samples(shard):
                assert isinstance(sample, Sample), sample
                image = images.get(_short(f"{shard}:{sample.key}"))
                content = sample.image if image is None else _encoded(image, "PNG")
                ending = sample.suffix if image is None else "png"
                info = tarfile.TarInfo(f"{sample.key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return pairs


def changed(image: Pixels, kind: str, random: np.random.Generator) -> Pixels:
    """A copy [C, H, W] of the kind."""
    if kind == "jpeg":
        quality = int(random.integers(QUALITIES[0], QUALITIES[1] + 1))
        return decode_image(_encoded(image, "JPEG", quality=quality), "jpg")
    if kind == "shift":
        y, x = DIRECTIONS[random.integers(len(DIRECTIONS))]
        height, width = image.shape[1:]
        wide = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
        return wide[:, 1 - y : 1 - y + height, 1 - x : 1 - x + width]
    if kind == "brightness":
        scaled = random.random() < 0.5
        values = image * random.uniform(*GAINS) if scaled else image + random.uniform(*OFFSETS)
        return np.clip(np.round(values), 0, 255).astype(np.uint8)
    return image


def _samples(shards: str) -> Iterator[Sample]:
    for shard in expand_shards(shards):
        for sample in iter_samples(shard):
            assert isinstance(sample, Sample), sample
            yield sample


def _encoded(image: Pixels, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, form, **options)
    return file.getvalue()


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


if __name__ == "__main__":
    sys.exit(main())
