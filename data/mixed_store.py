"""Images of several sources side by side, each in memory or in its shards, with their weights.

Shapes: N images, B rows, C channels, H height, W width.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from data.errors import DataError
from data.indexed import IndexedImages
from data.indexed_store import IndexedStore
from data.mixed_order import MixedOrder
from data.order import Order, Places
from data.store import ResidentStore


class WeightedShards(BaseModel):
    """One of several sources."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: str | tuple[str, ...] = Field(description="a path, a glob or braces, as data.shards")
    weight: float = Field(
        1.0, gt=0, description="share of every batch, relative to the other sources' weights"
    )


class MixedImages:
    """The images of several sources end to end, as one tensor of them would give them.

    Attributes:
        shape: (N, C, H, W).
    """

    def __init__(self, parts: Sequence[Tensor | IndexedImages]) -> None:
        """Take images of sources, uint8 [N_k, C, H, W] each."""
        self._parts = parts
        counts = [len(images) for images in parts]
        self._starts = np.cumsum([0, *counts[:-1]])
        self.shape = (sum(counts), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        """Return some images, uint8 [B, C, H, W]."""
        if isinstance(rows, slice):
            return self.take(np.arange(*rows.indices(len(self))))
        return self.take(np.asarray(rows, np.int64))

    def take(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Return images by their rows, uint8 [B, C, H, W]."""
        taken = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        source = np.searchsorted(self._starts, rows, side="right") - 1
        for number, images in enumerate(self._parts):
            own = np.flatnonzero(source == number)
            if len(own):
                wanted = torch.from_numpy(rows[own] - self._starts[number])
                taken[torch.from_numpy(own)] = images[wanted]
        return taken

    def expect(self, order: Order, step: int, start: int, stop: int | None) -> None:
        """Nothing has to be fetched beforehand."""

    def counts_of(self, rows: Places) -> list[int]:
        """Return how many of some rows, ascending, are of each source."""
        ends = np.searchsorted(rows, [*self._starts[1:], len(self)])
        return np.diff(ends, prepend=0).tolist()


@dataclass(frozen=True)
class MixedStore:
    """Several sources and their weights.

    Fields:
        fingerprint: of the sources' fingerprints and weights.
        info: None: no single `dataset.json` describes them.
    """

    images: MixedImages
    weights: tuple[float, ...]
    fingerprint: str
    info: None = None

    def __len__(self) -> int:
        return len(self.images)

    def order(self, rows: Places, *, batch_size: int, seed: int) -> MixedOrder:
        """Return the order of some rows, ascending.

        Raises:
            DataError: as `MixedOrder`.
        """
        counts = self.images.counts_of(rows)
        return MixedOrder(counts, self.weights, batch_size=batch_size, seed=seed)


def mix(
    stores: Sequence[ResidentStore | IndexedStore], sources: Sequence[WeightedShards]
) -> MixedStore:
    """Put the images of several sources side by side.

    Raises:
        DataError: they are of different shapes.
    """
    shapes = ["x".join(map(str, store.images.shape[1:])) for store in stores]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise DataError(
                f"data.shards: source {number} has images of {shape} (channels x height x width), "
                f"source 0 of {shapes[0]}; set data.size and data.channels to bring all to one "
                "shape"
            )
    weights = tuple(source.weight for source in sources)
    identity = ["mixed", [store.fingerprint for store in stores], weights]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return MixedStore(MixedImages([store.images for store in stores]), weights, fingerprint)
