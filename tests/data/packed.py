"""Look into packed folders."""

from pathlib import Path

import numpy as np

from data.dataset import read_dataset_info
from data.decode import decode_image
from data.shards import Sample, iter_samples


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
