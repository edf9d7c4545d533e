"""Which images of a run are trained on, and which are held out."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batches import Batches
from data.reading import IndexedStore, MixedStore, Store, StreamedStore
from pretrain.held_out import Rows, split_rows

_SAMPLE = 10_000
# Of images that are decoded for it.
_DECODED_SAMPLE = 1000
# Of images that are fetched too: those that monitors may look at.
_STREAMED_ROWS = 10_000


@dataclass(frozen=True)
class Division:
    """The images of a store, divided.

    Fields:
        trained: rows of images that are trained on, ascending: all, but of streamed ones the first
            10,000, as those of the shards held out.
        held_out: rows of images that are not, ascending.
        count: how many are trained on.
    """

    store: Store
    trained: Rows
    held_out: Rows
    count: int

    def sample(self) -> Tensor:
        """Return images that are trained on, uint8 [M, C, H, W]: all of those in memory, if they
        lie there side by side, else some."""
        images = self.store.images
        if isinstance(self.store, StreamedStore):  # of one shard, where others would be fetched
            return images[: min(self.count, _DECODED_SAMPLE)]
        if isinstance(self.store, IndexedStore | MixedStore):
            return images[self._every(_DECODED_SAMPLE)]
        if len(self.held_out) > 0:  # all others would take their size in memory
            return images[self._every(_SAMPLE)]
        return self.store.images

    def batches(self, *, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Return batches of the images that are trained on."""
        if isinstance(self.store, StreamedStore):
            order = self.store.order(batch_size=batch_size, seed=seed)
            return Batches(
                self.store.images, batch_size=batch_size, seed=seed, device=device, order=order
            )
        mixed = None
        if isinstance(self.store, MixedStore):
            mixed = self.store.order(self.trained, batch_size=batch_size, seed=seed)
        return Batches(
            self.store.images,
            indices=self.trained,
            batch_size=batch_size,
            seed=seed,
            device=device,
            order=mixed,
        )

    def _every(self, most: int) -> Tensor:
        return torch.from_numpy(self.trained[:: max(1, len(self.trained) // most)])


def divide(store: Store, share: float) -> Division:
    """Hold out a share of the images, in [0, 1); of streamed ones that was done shard by shard.

    Raises:
        InputError: a share that leaves no image on one of the sides; one line.
    """
    if isinstance(store, StreamedStore):
        first, last = store.trained, min(len(store), store.trained + _STREAMED_ROWS)
        trained = np.arange(min(first, _STREAMED_ROWS))
        return Division(store, trained, np.arange(first, last), first)
    trained, held_out = split_rows(len(store), share)
    return Division(store, trained, held_out, len(trained))
