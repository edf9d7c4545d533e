"""Start packing as a process, and look into packed folders."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from data.dataset import read_dataset_info
from data.decode import decode_image
from data.shards import Sample, iter_samples
from tests.processes import environment

PACK = "import sys; from data.__main__ import main; sys.exit(main(sys.argv[1:]))"


def unpack(folder: Path, split: str = "train") -> tuple[np.ndarray, list[int | None]]:
    """Pixels [N, C, H, W] and labels of a packed split."""
    info = read_dataset_info(folder)
    samples = [s for name in info.shards[split] for s in iter_samples(folder / name)]
    assert all(isinstance(sample, Sample) for sample in samples)
    assert len(samples) == info.counts[split]
    images = [decode_image(sample.image, sample.suffix) for sample in samples]
    return np.stack(images), [sample.label for sample in samples]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def start_pack(*args: object, **options: object) -> subprocess.Popen[str]:
    """Run `python -m data pack args`."""
    return subprocess.Popen(
        [sys.executable, "-c", PACK, "pack", *map(str, args)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
