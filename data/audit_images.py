"""The images of an audit: shards decoded into memory, with each sample's name and hash."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from data.decode import decode_image
from data.errors import DataError
from data.shards import BadSample, iter_samples

LARGEST_SIDE = 64
"""Pixels. Larger images are compared at this size, so that 100,000 of any size fit in memory."""
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class AuditImages:
    """Images in the order of their shards."""

    names: list[str]
    """SHARD FILE:KEY of each."""
    shards: list[Path]
    """The shard of each."""
    hashes: list[bytes]
    """Equal for images of equal shape and pixels, at their full size."""
    pixels: Tensor
    """uint8 [N, C, H, W], scaled down where a side is above `LARGEST_SIDE`."""
    shape: tuple[int, ...]
    """Channels, height and width before they were scaled down."""

    def __len__(self) -> int:
        return len(self.names)


def read_images(
    what: str,
    shards: Iterable[Path],
    *,
    channels: int | None = None,
    size: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> AuditImages:
    """Decode all images of `shards`.

    Args:
        what: what to call them in an error, such as "test".
        channels, size: what images are brought to, as by `decode_image`; None: as they are.
        on_image: called after each image, to show progress.
    Raises:
        DataError: a sample cannot be used, images have different shapes or are too small, or
            there are none.
    """
    names: list[str] = []
    places: list[Path] = []
    hashes: list[bytes] = []
    blocks: list[Tensor] = []
    shape: tuple[int, ...] | None = None
    for shard in shards:
        images: list[npt.NDArray[np.uint8]] = []
        for sample in iter_samples(shard):
            if isinstance(sample, BadSample):
                raise DataError(_cannot_be_used(sample))
            try:
                image = decode_image(sample.image, sample.suffix, channels=channels, size=size)
            except DataError as error:
                bad = BadSample(sample.shard, sample.offset, sample.key, str(error))
                raise DataError(_cannot_be_used(bad)) from None
            name = f"{shard}:{sample.key}"
            if shape is None:
                shape = image.shape
                _check_size(name, shape)
            elif image.shape != shape:
                raise DataError(
                    f"{name} is {shape_text(image.shape)}, {names[0]} is {shape_text(shape)}: "
                    "give --size and --channels, which bring all images to one shape"
                )
            names.append(name)
            places.append(shard)
            hashes.append(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
            images.append(image)
            on_image()
        if images:
            blocks.append(_scaled_down(torch.from_numpy(np.stack(images))))
    if shape is None:
        raise DataError(f"{what}: there is no image in these shards")
    return AuditImages(names, places, hashes, torch.cat(blocks), shape)


def shape_text(shape: tuple[int, ...]) -> str:
    """An image's shape [C, H, W] in words."""
    channels, height, width = shape
    return f"{width} x {height} in {'grey' if channels == 1 else 'colour'}"


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if min(shape[1:]) < SMALLEST_SIDE:
        raise DataError(
            f"{name} is {shape_text(shape)}: too small to tell copies apart, "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} is the least"
        )
    if max(shape[1:]) > SMALLEST_SIDE * min(shape[1:]):
        raise DataError(
            f"{name} is {shape_text(shape)}: too narrow to compare; give --size, which crops it"
        )


def _scaled_down(images: Tensor) -> Tensor:
    longest = max(images.shape[2:])
    if longest <= LARGEST_SIDE:
        return images
    height, width = (round(side * LARGEST_SIDE / longest) for side in images.shape[2:])
    parts = [F.adaptive_avg_pool2d(part.float(), (height, width)) for part in images.split(100)]
    return torch.cat([part.round().to(torch.uint8) for part in parts])


def _cannot_be_used(bad: BadSample) -> str:
    return f"{bad}; `python -m data verify '{bad.shard.parent}/*.tar'` lists all bad samples"
