"""What there is to know of the images of some shards, by decoding them all once."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.channel_statistics import ChannelStatistics
from data.shards import BadSample
from data.store_build import decode_all

_MAGIC = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"RIFF": "webp",
    b"\x93NUM": "npy",
}


@dataclass(slots=True)
class SplitStatistics:
    """What one split holds.

    Fields:
        bytes: of the encoded images; labels: images of each class; shapes: images of each
            (channels, height, width); formats: of each kind of file.
        duplicates: images whose pixels are those of an earlier one of the split.
        copies: images whose pixels are those of one of an earlier split.
        mean, std: per channel, of pixels scaled to 0 .. 1; None where numbers of channels differ.
    """

    images: int = 0
    bad: int = 0
    bytes: int = 0
    labels_missing: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    copies: int = 0
    mean: list[float] | None = None
    std: list[float] | None = None


def split_statistics(
    splits: dict[str, list[Path]], *, on_image: Callable[[], None] = lambda: None
) -> dict[str, SplitStatistics]:
    """Decode all images of splits, in bounded memory but for 16 bytes an image.

    Raises:
        DataError: a shard that cannot be opened, or without images.
    """
    earlier: set[bytes] = set()
    found = {}
    for split, shards in splits.items():
        found[split], own = _statistics(shards, earlier, on_image)
        earlier |= own
    return found


def _statistics(
    shards: Sequence[Path], earlier: set[bytes], on_image: Callable[[], None]
) -> tuple[SplitStatistics, set[bytes]]:
    split, own = SplitStatistics(), set[bytes]()
    moments: ChannelStatistics | None = ChannelStatistics()
    channels = None
    for sample, image in decode_all(shards, None, None):
        on_image()
        if isinstance(sample, BadSample) or image is None or isinstance(image, str):
            split.bad += 1
            continue
        split.images += 1
        split.bytes += len(sample.image)
        split.formats[_MAGIC.get(sample.image[:4], _MAGIC.get(sample.image[:3], "other"))] += 1
        split.shapes[image.shape[0], image.shape[1], image.shape[2]] += 1
        if sample.label is None:
            split.labels_missing += 1
        else:
            split.labels[sample.label] += 1
        content = hashlib.blake2b(f"{image.shape}".encode() + image.tobytes(), digest_size=16)
        split.duplicates += content.digest() in own
        split.copies += content.digest() in earlier
        own.add(content.digest())
        channels = channels or len(image)
        if moments is not None and len(image) == channels:
            moments.add(image)
        else:
            moments = None
    if moments is not None and (values := moments.mean_and_std()) is not None:
        split.mean, split.std = values
    return split, own
