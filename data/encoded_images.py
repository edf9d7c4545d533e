"""Images that a source keeps encoded, as files, in an archive or in a table: scanned, then decoded.

All headers are read first, so that before anything is written it is known whether any image is in
colour (then all are packed with 3 channels) and whether the images are of one size. Arrays with
other numbers of channels are alone among themselves.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.decode import SHARD_FORMATS, decode_image, fit_image, image_shape, npy_shape
from data.decode_ahead import decode_ahead
from data.errors import DataError
from data.sources import SourceImage, UnreadableImage

SOURCE_FORMATS = (*SHARD_FORMATS, "BMP", "GIF", "TIFF", "PPM")
SOURCE_SUFFIXES = (
    "png",
    "jpg",
    "jpeg",
    "webp",
    "bmp",
    "gif",
    "tif",
    "tiff",
    "pgm",
    "ppm",
    "npy",
)
_SHARD_SUFFIXES = ("png", "jpg", "jpeg", "webp", "npy")
MAX_FILE_BYTES = 2**28
"""A file above this size is not read."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as its source holds it.

    `origin` names it in messages, `name` is its name inside the source, which does not depend on
    the source's place, and `suffix` its ending without the dot.
    """

    origin: str
    name: str
    label: int | None
    data: bytes
    suffix: str


Entries = Callable[[str], Iterator[EncodedImage | UnreadableImage]]
"""Streams a split's images, always in the same order."""


class EncodedImages:
    """Counts, contents' hash and decoded images of a source whose images are encoded."""

    def __init__(self, entries: Entries, splits: Sequence[str], *, size: int | None) -> None:
        """Read every image's header.

        Args:
            entries: streams a split.
            splits: those that there are.
            size: height and width of the images to be given, in pixels; None keeps their own.
        Raises:
            DataError: the images are of different shapes and no size is asked for.
        """
        self._entries = entries
        self._size = size
        self._channels = 1
        self._unreadable: dict[str, dict[int, UnreadableImage]] = {split: {} for split in splits}
        self.counts: dict[str, int] = dict.fromkeys(splits, 0)
        content = hashlib.sha256()
        first: tuple[str, tuple[int, int, int]] | None = None
        for split in splits:
            for number, entry in enumerate(entries(split)):
                self.counts[split] += 1
                if isinstance(entry, UnreadableImage):
                    self._unreadable[split][number] = entry
                    continue
                content.update(name_hash(f"{entry.name} {entry.label}"))
                content.update(hashlib.sha256(entry.data).digest())
                try:
                    shape = _shape(entry)
                except DataError as error:
                    self._unreadable[split][number] = UnreadableImage(entry.origin, str(error))
                    continue
                self._channels = max(self._channels, shape[0])
                first = first or (entry.origin, shape)
                _check_alike(entry.origin, shape, *first, sized=size is not None)
        self.digest = content.hexdigest()

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, images with unreadable headers first, scaled to the size asked for."""
        unreadable = self._unreadable[split]
        yield from unreadable.values()
        entries = (
            entry for number, entry in enumerate(self._entries(split)) if number not in unreadable
        )
        decoded = decode_ahead(
            entries, self._decode, _encoded_bytes, one_size=self._size is not None
        )
        for entry, image in decoded:
            if isinstance(entry, UnreadableImage):
                yield entry
                continue
            if isinstance(image, str):
                yield UnreadableImage(entry.origin, image)
                continue
            assert image is not None
            # Original bytes stand for this image only where they decode to the same pixels.
            same = image.shape[0] == self._channels and self._size is None
            yield SourceImage(
                origin=entry.origin,
                name=entry.name,
                label=entry.label,
                image=fit_image(image, channels=self._channels),
                original=entry.data if same and entry.suffix in _SHARD_SUFFIXES else None,
                suffix=entry.suffix,
            )

    def _decode(
        self, entry: EncodedImage | UnreadableImage, max_pixels: int
    ) -> npt.NDArray[np.uint8] | None:
        if isinstance(entry, UnreadableImage):
            return None
        return decode_image(
            entry.data, entry.suffix, size=self._size, max_pixels=max_pixels, formats=SOURCE_FORMATS
        )


def _encoded_bytes(entry: EncodedImage | UnreadableImage) -> int:
    return len(entry.data) if isinstance(entry, EncodedImage) else 0


def name_hash(name: str) -> bytes:
    """A hash of a name, by which images are put in an order that mixes the classes."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _shape(entry: EncodedImage) -> tuple[int, int, int]:
    if entry.suffix == "npy":
        return npy_shape(entry.data)
    return image_shape(entry.data, formats=SOURCE_FORMATS)


def _check_alike(
    origin: str,
    shape: tuple[int, int, int],
    first_origin: str,
    first: tuple[int, int, int],
    *,
    sized: bool,
) -> None:
    """Check that an image can stand in one set with the first: shapes are [C, H, W]."""
    channels, height, width = shape
    if not sized and shape[1:] != first[1:]:
        raise DataError(
            f"{origin} is {width} x {height} pixels, {first_origin} is {first[2]} x {first[1]}; "
            "--size N makes all N x N"
        )
    if channels != first[0] and not {channels, first[0]} <= {1, 3}:
        raise DataError(
            f"{origin} has {channels} channels, {first_origin} has {first[0]}; pack them apart"
        )
