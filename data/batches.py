"""Batches as a pure function of (seed, step), gathered from images held in memory.

Shapes: N images in the store, G rows of a global batch, B rows of one rank or micro-batch.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import DataError
from data.image_rows import TakenImages
from data.order import EpochOrder, Order, Places
from data.read_ahead import ReadAhead

# Of the free memory of a CUDA device: the rest is for activations.
_SHARE_OF_DEVICE_MEMORY = 0.5


class Batches:
    """An endless sequence of batches: one epoch after another, each image once in every epoch.

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
        order: of the images in use, for batches of `batch_size`; by default `EpochOrder`.
    Raises:
        DataError: no images, a batch size below 1, or another number of labels than of images.
    """

    def __init__(
        self,
        images: Tensor | TakenImages,
        labels: Tensor | None = None,
        *,
        indices: npt.NDArray[np.int64] | Sequence[int] | None = None,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        order: Order | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be 1 or more, got {batch_size}")
        if labels is not None and len(labels) != len(images):
            raise DataError(f"{len(labels)} labels for {len(images)} images")
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        # None: each place of the order is a row. Streamed images may be too many to list.
        self._rows = None if indices is None else np.asarray(indices, np.int64)
        count = len(images) if self._rows is None else len(self._rows)
        if count == 0:
            raise DataError("there are no images to make batches of")
        self._order = order or EpochOrder(count, batch_size=batch_size, seed=seed)
        self._image_shape = tuple(images.shape[1:])
        self._stored_rows = self._rows  # where each image of an epoch lies in self._images
        self._decoded: TakenImages | None = None
        self._ahead: ReadAhead | None = None
        self._labels = labels
        if not isinstance(images, Tensor):
            self._decoded = images
            self._ahead = ReadAhead(images, self._order, self._at)
            self._images = torch.empty(0)
            return
        # Rows of one axis: index_select then copies each image as one piece.
        self._images = images.flatten(1)
        self._labels = None if labels is None else labels.to(images.device)
        if self._should_move():
            self._move()

    def __len__(self) -> int:
        """Number of images in an epoch."""
        return len(self._order)

    def steps(self, epochs: float) -> int:
        """Steps that show at least `epochs` times the number of images; 1 or more."""
        return max(1, math.ceil(epochs * len(self) / self.batch_size))

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """Rows of `images` that form the global batch of `step`, int64 [G]."""
        return self._at(self.places(step))

    def places(self, step: int, start: int = 0, stop: int | None = None) -> Places:
        """Which images rows [start, stop) of a step's batch are, counted as `in_order` does."""
        return self._order.places(step, start, stop)

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """Rows [start, stop) of the global batch of `step`, on the device.

        Returns:
            "images": uint8 [B, C, H, W]; "labels": int64 [B], where there are labels.
        """
        if self._ahead is not None and self._labels is None:
            return {"images": self._ahead.batch(step, start, stop).to(self.device)}
        rows = self._stored(self.places(step, start, stop))
        if self._ahead is not None:
            batch = {"images": self._ahead.batch(step, start, stop).to(self.device)}
        else:
            batch = {"images": self._gather(rows)}
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
        return Batches(
            values,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            order=self._order,
        )

    def some(self, places: Places) -> "Batches":
        """Return batches of some of the images alone, their places as in `in_order`, int64 [M]."""
        chosen = copy.copy(self)
        chosen._rows = self._at(places)
        chosen._stored_rows = _chosen(self._stored_rows, places)
        chosen._order = EpochOrder(len(places), batch_size=self.batch_size, seed=self.seed)
        if self._decoded is not None:
            chosen._ahead = ReadAhead(self._decoded, chosen._order, chosen._at)
        return chosen

    def _at(self, places: Places) -> Places:
        """The rows of images in use."""
        return _chosen(self._rows, places)

    def _stored(self, places: Places) -> Tensor:
        return torch.from_numpy(_chosen(self._stored_rows, places)).to(self._images.device)

    def _gather(self, rows: Tensor) -> Tensor:
        if self._decoded is not None:
            return self._decoded.take(rows.numpy()).to(self.device)
        images = self._images.index_select(0, rows).to(self.device)
        return images.view(-1, *self._image_shape)

    def _should_move(self) -> bool:
        if self.device.type != "cuda" or self._images.device.type == "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        wanted = len(self) * self._images.shape[1] * self._images.element_size()
        return wanted <= _SHARE_OF_DEVICE_MEMORY * free

    def _move(self) -> None:
        if self._rows is None:
            self._images = self._images.to(self.device)
            self._labels = None if self._labels is None else self._labels.to(self.device)
            return
        rows = torch.from_numpy(self._rows)
        self._images = self._images.index_select(0, rows).to(self.device)
        if self._labels is not None:
            self._labels = self._labels.index_select(0, rows).to(self.device)
        self._stored_rows = None


class PlacedBatches:
    """Batches of images that say which of all images each one is."""

    def __init__(self, images: Batches) -> None:
        self.batch_size = images.batch_size
        self._images = images

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """As `Batches.batch`, with "places": int64 [B], counted as `Batches.in_order` does."""
        places = torch.from_numpy(self._images.places(step, start, stop))
        batch = self._images.batch(step, start, stop)
        return {**batch, "places": places.to(batch["images"].device)}


def _chosen(rows: Places | None, places: Places) -> Places:
    return places if rows is None else rows[places]
