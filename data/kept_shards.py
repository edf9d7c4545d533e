"""Finished shards of a packing that was killed: found, and compared with what they should hold."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decode import decode_image
from data.errors import DataError
from data.shard_writer import shard_name
from data.shards import BadSample, Sample, iter_samples
from data.tar import ends_whole


class KeptShardsDiffer(Exception):
    """Shards that a killed packing left are not what it would write now."""


class KeptShards:
    """The samples of a split's finished shards, one after the other."""

    def __init__(self, folder: Path, split: str) -> None:
        self.names: list[str] = []
        while ends_whole(folder / shard_name(split, len(self.names))):
            self.names.append(shard_name(split, len(self.names)))
        self._samples = self._read(folder)

    def next_sample(self) -> Sample | None:
        """The next sample; None after the last.

        Raises:
            KeptShardsDiffer: it is damaged.
        """
        item = next(self._samples, None)
        if isinstance(item, BadSample):
            raise KeptShardsDiffer
        return item

    def _read(self, folder: Path) -> Iterator[Sample | BadSample]:
        for name in self.names:
            yield from iter_samples(folder / name)


def check_kept(
    sample: Sample,
    key: str,
    suffix: str,
    label: int | None,
    pixels: npt.NDArray[np.uint8] | None,
    *,
    original: bytes | None,
) -> None:
    """Compare a kept sample with what would be written in its place.

    Args:
        pixels: uint8 [C, H, W] that it decodes to; None: not known, but it must decode.
        original: the image's bytes; None: not known.
    Raises:
        KeptShardsDiffer: it is another.
    """
    if (sample.key, sample.suffix, sample.label) != (key, suffix, label):
        raise KeptShardsDiffer
    if original is not None:
        if sample.image != original:
            raise KeptShardsDiffer
        return
    try:
        found = decode_image(sample.image, sample.suffix)
    except DataError as error:
        raise KeptShardsDiffer from error
    if pixels is not None and not np.array_equal(found, pixels):
        raise KeptShardsDiffer
