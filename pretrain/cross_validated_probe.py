"""A linear head's accuracy on an encoder, cross-validated inside a number of labels.

Shapes: N labelled images, C channels, H height, W width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.labels import budget_order, stratified_folds
from data.store import ResidentStore
from models.encoders import Encoder
from pretrain.probe import ridge_logits
from pretrain.reference import pooled_features
from training.errors import InputError

_GRID = 4
_FOLDS = 5
# With two, a head is fitted on one of its own class and two of each other, and never takes its own.
_OF_A_CLASS = 3


class CrossValidatedProbe:
    """Tells of each of N labelled images whether a ridge head gets it right that has not seen it.

    The head reads all stages pooled to 4x4; its strength is chosen inside each fold's other labels.

    Raises:
        InputError: too few labels; one line.
    """

    def __init__(self, store: ResidentStore, count: int, *, seed: int) -> None:
        """Choose the images, class-balanced."""
        if store.labels is None:
            raise InputError(
                f"--labels: {store.labels_missing:,} of {len(store):,} samples have no label "
                "(.cls); give shards whose samples are all labeled, or leave --labels out"
            )
        labels = store.labels.numpy()
        number = len(np.unique(labels))
        least = max(2 * _FOLDS, _OF_A_CLASS * number)
        if not least <= count <= len(store):
            raise InputError(
                f"--count: found {count:,}; give {least:,} to {len(store):,}, {_OF_A_CLASS} for "
                f"each of {number:,} classes at least and as many images as --labels hold at most"
            )
        rows = budget_order(labels, draw=0, seed=seed)[:count]
        _, classes = np.unique(labels[rows], return_inverse=True)
        if classes.max() == 0:
            raise InputError("--labels: all samples have the same label; give two classes or more")
        self._images: Tensor = store.images[torch.from_numpy(rows)]
        self._labels = torch.from_numpy(classes)
        self._folds = torch.from_numpy(stratified_folds(classes, _FOLDS, seed=seed))

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self._images.shape[1:])

    def hits(self, encoder: Encoder) -> NDArray[np.bool_]:
        """Return which images are told right, bool [N]; all wrong where features are not finite."""
        features = pooled_features(encoder, self._images, grid=_GRID)
        found = torch.zeros(len(features), dtype=torch.bool)
        if features.isfinite().all():
            for fold in range(_FOLDS):
                out = self._folds == fold
                logits = ridge_logits(features[~out], self._labels[~out], features[out])
                found[out] = logits.argmax(1) == self._labels[out]
        return found.numpy()
