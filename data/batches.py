"""Batches as a pure function of (seed, step), gathered from images held in memory.

Shapes: N images in the store, G rows of a global batch, B rows of one rank or micro-batch.
"""

import copy
import math
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import DataError
from data.indexed import IndexedImages
from data.read_ahead import ReadAhead

_ORDER = zlib.crc32(b"order")
# Of the free memory of a CUDA device: the rest is for activations.
_SHARE_OF_DEVICE_MEMORY = 0.5


class Batches:
    """An endless sequence of batches: the concatenated random orders of one epoch after another.

    Every epoch holds each image exactly once. A batch may straddle epochs, so no image is left
    out where the batch size does not divide the number of images.

    Args:
        images: uint8 [N, C, H, W], memory-mapped or not, or other values [N, ...]. For a CUDA
            device those of `indices` are copied there once if they fit in half of its free
            memory; otherwise batch by batch. Images that are decoded when they are asked for are
            asked for one batch ahead.
        labels: int64 [N], or None.
        indices: the rows of `images` to use; all by default.
        batch_size: rows of the global batch, G.
        seed: of the order.
        device: where batches are wanted.
    Raises:
        DataError: no images, a batch size below 1, or another number of labels than of images.
    """

    def __init__(
        self,
        images: Tensor | IndexedImages,
        labels: Tensor | None = None,
        *,
        indices: npt.NDArray[np.int64] | Sequence[int] | None = None,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be 1 or more, got {batch_size}")
        if labels is not None and len(labels) != len(images):
            raise DataError(f"{len(labels)} labels for {len(images)} images")
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self._rows = np.arange(len(images)) if indices is None else np.asarray(indices, np.int64)
        if len(self._rows) == 0:
            raise DataError("there are no images to make batches of")
        self._permutations: dict[int, npt.NDArray[np.int64]] = {}
        self._image_shape = tuple(images.shape[1:])
        self._stored_rows = self._rows  # where each image of an epoch lies in self._images
        self._ahead: ReadAhead | None = None
        self._indexed: IndexedImages | None = None
        if isinstance(images, IndexedImages):
            self._indexed, self._ahead = images, ReadAhead(images, self.indices)
            self._images = torch.empty(0)
            self._labels = labels
            return
        # Rows of one axis: index_select then copies each image as one piece.
        self._images = images.flatten(1)
        self._labels = None if labels is None else labels.to(images.device)
        if self._should_move():
            self._move()

    def __len__(self) -> int:
        """Number of images in an epoch."""
        return len(self._rows)

    def steps(self, epochs: float) -> int:
        """Steps that show at least `epochs` times the number of images; 1 or more."""
        return max(1, math.ceil(epochs * len(self) / self.batch_size))

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Rows of `images` that form the global batch of `step`, int64 [G]."""
        return self._rows[self.places(step)]

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """Rows [start, stop) of the global batch of `step`, on the device.

        Returns:
            "images": uint8 [B, C, H, W]; "labels": int64 [B], where there are labels.
        """
        rows = self._stored(self.places(step)[start:stop])
        if self._ahead is None:
            batch = {"images": self._gather(rows)}
        else:
            batch = {"images": self._ahead.batch(step, start, stop).to(self.device)}
        if self._labels is not None:
            batch["labels"] = self._labels.index_select(0, rows).to(self.device)
        return batch

    def in_order(self, start: int, stop: int) -> Tensor:
        """Images [start, stop) of those in use, as `indices` has them, on the device."""
        return self._gather(self._stored(np.arange(start, min(stop, len(self)))))

    def of(self, values: Tensor) -> "Batches":
        """Return batches of other values, [len(self), ...], of the same images at each step.

        Args:
            values: one row for each image, in the order of `in_order`.
        """
        return Batches(values, batch_size=self.batch_size, seed=self.seed, device=self.device)

    def some(self, places: npt.NDArray[np.int64]) -> "Batches":
        """Return batches of some of the images alone, their places as in `in_order`, int64 [M]."""
        chosen = copy.copy(self)
        chosen._rows, chosen._stored_rows = self._rows[places], self._stored_rows[places]
        chosen._permutations = {}
        if self._indexed is not None:
            chosen._ahead = ReadAhead(self._indexed, chosen.indices)
        return chosen

    def _stored(self, places: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._stored_rows[places]).to(self._images.device)

    def _gather(self, rows: Tensor) -> Tensor:
        if self._indexed is not None:
            return self._indexed.take(rows.numpy()).to(self.device)
        images = self._images.index_select(0, rows).to(self.device)
        return images.view(-1, *self._image_shape)

    def places(self, step: int) -> npt.NDArray[np.int64]:
        """Which images form the global batch of `step`, counted as `in_order` does, int64 [G]."""
        position = step * self.batch_size
        pieces = []
        wanted = self.batch_size
        while wanted:
            epoch, start = divmod(position, len(self))
            piece = self._permutation(epoch)[start : start + wanted]
            pieces.append(piece)
            position += len(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._permutations:
            # A batch rarely spans more than two epochs; older orders are not needed again.
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            generator = np.random.Generator(
                np.random.Philox(np.random.SeedSequence((self.seed, _ORDER, epoch)))
            )
            self._permutations[epoch] = generator.permutation(len(self))
        return self._permutations[epoch]

    def _should_move(self) -> bool:
        if self.device.type != "cuda" or self._images.device.type == "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        wanted = len(self) * self._images.shape[1] * self._images.element_size()
        return wanted <= _SHARE_OF_DEVICE_MEMORY * free

    def _move(self) -> None:
        rows = torch.from_numpy(self._rows)
        self._images = self._images.index_select(0, rows).to(self.device)
        if self._labels is not None:
            self._labels = self._labels.index_select(0, rows).to(self.device)
        self._stored_rows = np.arange(len(rows))


class PlacedBatches:
    """Batches of images that say which of all images each one is."""

    def __init__(self, images: Batches) -> None:
        self.batch_size = images.batch_size
        self._images = images

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """As `Batches.batch`, with "places": int64 [B], counted as `Batches.in_order` does."""
        places = torch.from_numpy(self._images.places(step)[start:stop])
        batch = self._images.batch(step, start, stop)
        return {**batch, "places": places.to(batch["images"].device)}
