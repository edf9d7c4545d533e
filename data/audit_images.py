"""The images of an audit, with each sample's name and hash: shards decoded into memory, or images
that are in memory already."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from data.decode import decode_image
from data.errors import DataError
from data.npy import channels_in_words
from data.shards import BadSample, iter_samples

LARGEST_SIDE = 64
"""Pixels. Larger images are compared at this size, so that 100,000 of any size fit in memory."""
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class ComparedImages:
    """What is compared of images."""

    hashes: list[bytes]
    """Equal for images of equal shape and pixels, at their full size."""
    pixels: Tensor
    """uint8 [N, C, H, W], scaled down where a side is above `LARGEST_SIDE`."""
    shape: tuple[int, ...]
    """Channels, height and width before they were scaled down."""

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True)
class AuditImages(ComparedImages):
    """Images in the order of their shards."""

    names: list[str]
    """SHARD FILE:KEY of each."""
    shards: list[Path]
    """The shard of each."""


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
            hashes.append(_hash(image))
            images.append(image)
            on_image()
        if images:
            blocks.append(scaled_down(torch.from_numpy(np.stack(images))))
    if shape is None:
        raise DataError(f"{what}: there is no image in these shards")
    return AuditImages(hashes, torch.cat(blocks), shape, names, places)


def images_in_memory(sets: Sequence[Tensor]) -> ComparedImages:
    """The images of sets uint8 [N, C, H, W] that are decoded already, one set after another.

    All are of one shape, of which `incomparable` has nothing to say.
    """
    return ComparedImages(
        hashes=[content for images in sets for content in hash_images(images)],
        pixels=torch.cat([scaled_down(images) for images in sets]),
        shape=tuple(sets[0].shape[1:]),
    )


def hash_images(images: Tensor) -> list[bytes]:
    """A hash of each image [N, C, H, W]: equal where the pixels are."""
    return [_hash(image) for image in images.numpy()]


def shape_text(shape: tuple[int, ...]) -> str:
    """An image's shape [C, H, W] in words."""
    channels, height, width = shape
    return f"{width} x {height} in {channels_in_words(channels)}"


def _hash(image: npt.NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def incomparable(shape: tuple[int, ...]) -> str | None:
    """Why near copies cannot be told among images of a shape [C, H, W]; None where they can."""
    if min(shape[1:]) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE} x {SMALLEST_SIDE} is the least"
        return f"{shape_text(shape)}: too small to tell copies apart, {least}"
    if max(shape[1:]) > SMALLEST_SIDE * min(shape[1:]):
        return f"{shape_text(shape)}: too narrow to compare"
    return None


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    if found := incomparable(shape):
        raise DataError(f"{name} is {found}; give --size, which scales and crops it")


def scaled_down(images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] as they are compared: no side above `LARGEST_SIDE`."""
    longest = max(images.shape[2:])
    if longest <= LARGEST_SIDE:
        return images
    height, width = (round(side * LARGEST_SIDE / longest) for side in images.shape[2:])
    parts = [F.adaptive_avg_pool2d(part.float(), (height, width)) for part in images.split(100)]
    return torch.cat([part.round().to(torch.uint8) for part in parts])


def _cannot_be_used(bad: BadSample) -> str:
    return f"{bad}; `python -m data verify '{bad.shard.parent}/*.tar'` lists all bad samples"
