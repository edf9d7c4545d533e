"""Encoding images for shards, in this process or in several: the same bytes either way."""

import io
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.errors import DataError, cause
from data.npy import channel_axis

Form = Literal["png", "jpeg", "webp"]
SUFFIXES: dict[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_BATCH_IMAGES = 64
_BATCH_BYTES = 2**22

# Measured: at 28 pixels levels 1 to 6 are equally fast; at 224, 6 takes three times as long as 3
# for files 11 % smaller.
_PNG_COMPRESS_LEVEL = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images are stored: `png` loses nothing; `jpeg` and `webp` have a quality of 1 to 100.

    Where there are neither 1 nor 3 channels, `png` stands for `.npy` files.
    """

    form: Form
    quality: int

    def suffix(self, channels: int) -> str:
        """The ending of files of images with so many channels, without the dot."""
        return SUFFIXES[self.form] if channels in (1, 3) else "npy"

    def why_not(self, image_CHW: npt.NDArray[np.uint8]) -> str | None:
        """Why an image cannot be stored with its channels; None where it can."""
        channels = len(image_CHW)
        if channels not in (1, 3) and self.form != "png":
            return f"{channels} channels, {self.form} holds 1 or 3; give --encode png"
        if channels not in (1, 3) and not _is_read_as_chw(image_CHW.shape):
            return (
                f"an array of shape {list(image_CHW.shape)}, of which it could not be told again "
                "which axis holds the channels; give --size, which makes it square"
            )
        if channels == 1 and self.form == "webp":
            return (
                "WebP has no grey images, it would become one in colour; give --encode png or jpeg"
            )
        return None

    def encode(self, image_CHW: npt.NDArray[np.uint8]) -> bytes:
        """Encode uint8 [C, H, W], of which `why_not` has nothing to say.

        Raises:
            DataError: such files cannot hold an image as large.
        """
        if len(image_CHW) not in (1, 3):
            array = io.BytesIO()
            np.save(array, np.ascontiguousarray(image_CHW), allow_pickle=False)
            return array.getvalue()
        pixels = image_CHW[0] if image_CHW.shape[0] == 1 else image_CHW.transpose(1, 2, 0)
        options: dict[str, Any] = {"quality": self.quality}
        if self.form == "png":
            options = {"compress_level": _PNG_COMPRESS_LEVEL}
        file = io.BytesIO()
        try:
            Image.fromarray(np.ascontiguousarray(pixels)).save(file, self.form.upper(), **options)
        except (OSError, ValueError) as error:
            height, width = pixels.shape[:2]
            raise DataError(
                f"encode: an image of {width} x {height} pixels cannot become {self.form}: "
                f"{cause(error)}; give --encode png"
            ) from error
        return file.getvalue()


def _is_read_as_chw(shape: tuple[int, ...]) -> bool:
    try:
        return channel_axis(shape) == 0
    except DataError:
        return False


def encode_in_order(
    items: Iterator[tuple[T, npt.NDArray[np.uint8] | None]], encoding: Encoding, workers: int
) -> Iterator[tuple[T, bytes | None]]:
    """Encode the images of items, by so many processes, and yield the items in their order.

    Args:
        items: each with its image, uint8 [C, H, W], or None where there is nothing to encode.
        workers: 1 encodes here; more are processes, which a few batches of items are sent to ahead.
    Raises:
        DataError: an image cannot be encoded, or a worker was killed.
    """
    if workers == 1:
        for item, image in items:
            yield item, None if image is None else encoding.encode(image)
        return
    # Forked processes would inherit locks that threads of this one hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[tuple[list[T], Future[list[bytes | None]]]] = deque()
        try:
            for batch in _batches(items):
                images = [image for _, image in batch]
                future = pool.submit(_encode_all, encoding, images)
                waiting.append(([item for item, _ in batch], future))
                if len(waiting) > 2 * workers:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool as error:
            raise DataError(
                "workers: one of them was killed, perhaps for want of memory; give fewer --workers"
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


def _batches(
    items: Iterator[tuple[T, npt.NDArray[np.uint8] | None]],
) -> Iterator[list[tuple[T, npt.NDArray[np.uint8] | None]]]:
    batch: list[tuple[T, npt.NDArray[np.uint8] | None]] = []
    size = 0
    for item, image in items:
        batch.append((item, image))
        size += 0 if image is None else image.nbytes
        if len(batch) == _BATCH_IMAGES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _finished(
    waiting: deque[tuple[list[T], Future[list[bytes | None]]]],
) -> Iterator[tuple[T, bytes | None]]:
    items, future = waiting.popleft()
    yield from zip(items, future.result(), strict=True)


def _encode_all(
    encoding: Encoding, images: list[npt.NDArray[np.uint8] | None]
) -> list[bytes | None]:
    return [None if image is None else encoding.encode(image) for image in images]
