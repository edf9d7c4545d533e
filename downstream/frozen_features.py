"""Features of training images by an encoder that stays as it is, each image's computed once.

Shapes: N rows, F features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.features import FeaturesConfig, drawn_copy, extract, images_at_once
from models.encoders import Encoder


class FrozenFeatures:
    """Keeps in memory, on the encoder's device, what was asked for before."""

    def __init__(
        self, encoder: Encoder, images: Tensor, config: FeaturesConfig, *, copy: int | None = None
    ) -> None:
        """Compute nothing yet.

        Args:
            images: uint8, all of a training set.
            copy: the number of a changed copy of each image; None: the images themselves.
        """
        self._changes = None if copy is None else drawn_copy(config, len(images), copy)
        self._encoder, self._images, self._config = encoder, images, config
        self._place = np.full(len(images), -1)
        self._kept = torch.empty(0)

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the features [N, F] of some rows, of all stages of the config, lowest first."""
        new = rows[self._place[rows] < 0]
        if len(new):
            device = next(self._encoder.parameters()).device
            parts = [
                extract(
                    self._encoder,
                    self._images[part].to(device),
                    self._config,
                    None if self._changes is None else self._changes.at(part, device),
                )
                for part in torch.from_numpy(new).split(images_at_once(self._encoder))
            ]
            known = int(self._place.max()) + 1
            self._place[new] = np.arange(known, known + len(new))
            self._kept = torch.cat([self._kept, *parts] if known else parts)
        return self._kept[torch.from_numpy(self._place[rows])]
