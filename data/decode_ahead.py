"""Decoding many images in order, by threads that run ahead of what is taken, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.decode import MAX_PIXELS
from data.errors import DataError

MAX_AHEAD_PIXELS = 2**24
"""Larger images are decoded one at a time, as they take much memory."""

_MAX_THREADS = 8
_CHUNK_ITEMS = 64
_CHUNK_BYTES = 8 * 2**20

Image = npt.NDArray[np.uint8]
T = TypeVar("T")


def decode_ahead(
    items: Iterator[T],
    decode: Callable[[T, int], Image | None],
    encoded_bytes: Callable[[T], int],
    *,
    one_size: bool,
) -> Iterator[tuple[T, Image | str | None]]:
    """Decode items in order, with a bounded number of images in flight.

    A few threads decode ahead of what is taken. Images above 2^24 pixels, and those larger than the
    first where sizes may differ, they leave to the caller's thread, one at a time, so that no
    source can fill the memory.

    Args:
        decode: given an item and the most pixels that its image may have, returns the image, uint8
            [C, H, W], or None where the item has none; raises DataError.
        encoded_bytes: of an item.
        one_size: whether `decode` brings all images to one size.
    Yields:
        Each item with its image, None, or the reason why it does not decode.
    """

    def attempt(item: T, max_pixels: int = MAX_PIXELS) -> Image | str | None:
        try:
            return decode(item, max_pixels)
        except DataError as error:
            return str(error)

    chunk_items = 1
    ahead_pixels = MAX_AHEAD_PIXELS
    # The first image tells how large images are, and so how many make a chunk.
    for item in items:
        image = attempt(item)
        yield item, image
        if isinstance(image, np.ndarray):
            chunk_items = max(1, min(_CHUNK_ITEMS, _CHUNK_BYTES // image.nbytes))
            if not one_size:
                pixels = max(image[0].size, _CHUNK_BYTES // _CHUNK_ITEMS)
                ahead_pixels = min(ahead_pixels, pixels)
            break

    def decode_chunk(chunk: list[T]) -> list[tuple[T, Image | str | None]]:
        return [(item, attempt(item, ahead_pixels)) for item in chunk]

    def finish(
        chunk: list[tuple[T, Image | str | None]],
    ) -> Iterator[tuple[T, Image | str | None]]:
        for item, image in chunk:
            # A reason: too large to be decoded ahead, or bad.
            yield item, attempt(item) if isinstance(image, str) else image

    threads = min(_MAX_THREADS, available_cores())
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending: deque[Future[list[tuple[T, Image | str | None]]]] = deque()
    try:
        for chunk in _chunks(items, chunk_items, encoded_bytes):
            pending.append(pool.submit(decode_chunk, chunk))
            if len(pending) > 2 * threads:
                yield from finish(pending.popleft().result())
        while pending:
            yield from finish(pending.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(items: Iterator[T], most: int, encoded_bytes: Callable[[T], int]) -> Iterator[list[T]]:
    chunk: list[T] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += encoded_bytes(item)
        if len(chunk) >= most or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
