"""What a run learns from: its images, which of them are held out, and what it is told of them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.batches import Batches
from data.order import Order
from data.reading import IndexedStore, MixedStore, ResidentStore, Store, StreamedStore
from pretrain.combined import CombinedConfig
from pretrain.config import ObjectiveConfig, PretrainConfig
from pretrain.held_out import Rows, split_rows
from pretrain.labels import LabelsConfig, label_targets
from pretrain.supervised import SupervisedConfig, class_targets
from pretrain.targets import Targets, all_of
from training.errors import InputError

_SAMPLE, _LEAST_SAMPLE = 10_000, 1000
_SAMPLE_BYTES = 2**28
"""Of images that are looked at before training: as many as this allows, between these numbers."""
_STREAMED_ROWS = 10_000
"""Streamed images that monitors may look at."""


@dataclass(frozen=True)
class LearningSet:
    """Which images of a store.

    Fields:
        trained, held_out: rows int64, ascending, of those that are trained on, and of those that
            are only measured on; of streamed images the first 10,000 of either.
        count: how many are trained on.
        targets: what the objective learns of them besides; None: it reads no labels.
    """

    store: Store
    trained: Rows
    held_out: Rows
    count: int
    targets: Targets | None

    def sample(self) -> Tensor:
        """Return some of the images that are trained on, uint8 [M, C, H, W]: the same ones wherever
        they are read from, but for streamed images the first."""
        if isinstance(self.store, StreamedStore):  # side by side, for each shard is fetched
            return self.store.images[: min(self.count, _LEAST_SAMPLE)]
        image_bytes = math.prod(self.store.images.shape[1:])
        most = min(_SAMPLE, max(_LEAST_SAMPLE, _SAMPLE_BYTES // image_bytes))
        rows = self.trained[:: max(1, self.count // most)][:most]
        return self.store.images[torch.from_numpy(rows)]

    def batches(self, *, batch_size: int, seed: int, device: torch.device) -> Batches:
        """Return batches of the images that are trained on."""
        indices: Rows | None = self.trained
        order: Order | None = None
        if isinstance(self.store, StreamedStore):
            indices, order = None, self.store.order(batch_size=batch_size, seed=seed)
        elif isinstance(self.store, MixedStore):
            order = self.store.order(self.trained, batch_size=batch_size, seed=seed)
        return Batches(
            self.store.images,
            indices=indices,
            batch_size=batch_size,
            seed=seed,
            device=device,
            order=order,
        )


def learning_set(config: PretrainConfig, store: Store) -> LearningSet:
    """Return what a run learns from; labels are read where its objective learns them alone.

    Of streamed images whole shards are held out, which was done when they were opened.

    Raises:
        InputError: labels that are missing or do not fit, or no images on one of the sides.
    """
    if isinstance(store, StreamedStore):
        _refuse_labels(
            config.objective,
            "streamed images are not read; give shards here and data.mode resident or indexed",
        )
        first, last = store.trained, min(len(store), store.trained + _STREAMED_ROWS)
        trained = np.arange(min(first, _STREAMED_ROWS))
        return LearningSet(store, trained, np.arange(first, last), first, None)
    targets = None
    if isinstance(store, MixedStore):
        _refuse_labels(
            config.objective,
            "several sources do not mean the same; name one source as data.shards",
        )
    else:
        targets = _targets(config.objective, store, config)
    rows = np.arange(len(store)) if targets is None else targets.rows
    trained, held_out = split_rows(len(rows), config.data.held_out)
    return LearningSet(store, rows[trained], rows[held_out], len(trained), targets)


def _targets(
    objective: ObjectiveConfig, store: ResidentStore | IndexedStore, config: PretrainConfig
) -> Targets | None:
    match objective:
        case SupervisedConfig():
            return class_targets(objective, store)
        case LabelsConfig():
            cache = Path(config.runs_dir, ".cache", "labels")
            return label_targets(objective, store, config.data.first_shards, cache)
        case CombinedConfig():
            parts = {}
            for name, part in objective.parts.items():
                try:
                    targets = _targets(part.objective, store, config)
                except InputError as error:
                    raise InputError(f"objective.parts.{name}: {error}") from None
                if targets is not None:
                    parts[name] = targets
            return all_of(parts)
        case _:
            return None


def _refuse_labels(objective: ObjectiveConfig, why: str) -> None:
    match objective:
        case SupervisedConfig() | LabelsConfig():
            raise InputError(
                f"objective.kind: found {objective.kind!r}, which learns labels, and those of {why}"
            )
        case CombinedConfig():
            for part in objective.parts.values():
                _refuse_labels(part.objective, why)
        case _:
            return
