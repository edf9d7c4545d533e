"""Images that are decoded when they are asked for, by several threads.

Shapes: N images, B rows, C channels, H height, W width.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.decode import MAX_PIXELS, decode_image
from data.decode_ahead import MAX_AHEAD_PIXELS
from data.errors import DataError
from data.order import Order


class DecodedImages(ABC):
    """Images uint8 [N, C, H, W] by their rows, as a tensor of them would give them.

    Every image is decoded by the rules of `decode_image`, so that it equals that of a resident
    store. Several threads decode, very large images one at a time.

    Attributes:
        shape: (N, C, H, W).
    """

    shape: tuple[int, ...]

    def __init__(self, *, channels: int | None, size: int | None, threads: int) -> None:
        """Decode nothing yet.

        Args:
            channels, size: what images are brought to, as by `decode_image`; None: as they are.
            threads: that decode at a time.
        """
        self._channels, self._size = channels, size
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._large_lock = threading.Lock()
        self._image_shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        """Return some images, uint8 [B, C, H, W]."""
        if isinstance(rows, slice):
            return self.take(np.arange(*rows.indices(len(self))))
        return self.take(np.asarray(rows, np.int64))

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return images by their rows, uint8 [B, C, H, W].

        Raises:
            DataError: naming the sample that does not decode, or has another shape.
        """
        # Channels last, as most decoders give them: an image is then one copy, or none.
        channels, height, width = self.shape[1:]
        batch_NHWC = np.empty((len(rows), height, width, channels), np.uint8)
        places = iter(range(len(rows)))

        def fill() -> None:
            for place in places:  # each thread takes the next one
                place_HWC = batch_NHWC[place]
                image = self._image(int(rows[place]), place_HWC)
                if not np.may_share_memory(image, place_HWC):
                    place_HWC[...] = image.transpose(1, 2, 0)

        for job in [self._pool.submit(fill) for _ in range(self._threads)]:
            job.result()
        return torch.from_numpy(batch_NHWC.transpose(0, 3, 1, 2))

    def expect(  # noqa: B027 (most need nothing)
        self, order: Order, step: int, start: int, stop: int | None
    ) -> None:
        """Get ready what rows [start, stop) of a step's batch need, where that takes time."""

    @abstractmethod
    def _image(
        self, row: int, out_HWC: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return an image, or what stands in its place, uint8 [C, H, W], perhaps in `out_HWC`."""

    def _first(self, image: npt.NDArray[np.uint8], count: int) -> None:
        """Take the shape of all from the first image."""
        self._image_shape = image.shape
        self.shape = (count, *image.shape)

    def _decode(
        self, data: bytes, suffix: str, out_HWC: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        try:
            image = self._decode_up_to(MAX_AHEAD_PIXELS, data, suffix, out_HWC)
        except DataError:  # too large for several threads at once, or bad
            with self._large_lock:
                image = self._decode_up_to(MAX_PIXELS, data, suffix, out_HWC)
        if self._image_shape is not None and image.shape != self._image_shape:
            found, first = ("x".join(map(str, s)) for s in (image.shape, self._image_shape))
            raise DataError(
                f"image of {found} (channels x height x width) among images of {first}: set "
                "data.size and data.channels to bring all to one shape"
            )
        return image

    def _decode_up_to(
        self, max_pixels: int, data: bytes, suffix: str, out_HWC: npt.NDArray[np.uint8] | None
    ) -> npt.NDArray[np.uint8]:
        return decode_image(
            data,
            suffix,
            channels=self._channels,
            size=self._size,
            max_pixels=max_pixels,
            out_HWC=out_HWC,
        )
