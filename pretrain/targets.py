"""What an objective is to learn of images besides themselves: classes, or quantities.

Shapes: N images of a store, R of them that are learned from, B rows of a batch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batches import Batches
from pretrain.held_out import Rows
from training.loop import BatchSource
from training.trainable import Batch


@dataclass(frozen=True)
class Target:
    """One class or quantity of each image.

    Fields:
        name: tells it from other targets of the run, and names it in a batch.
        values: classes int64 [N] in [0, K), or a standardized quantity float32 [N]; without
            meaning for images that are not learned from.
        classes: names of the K classes; None: a quantity.
        weight: of its loss.
        origin: where the values come from, in words.
    """

    name: str
    values: Tensor
    classes: tuple[str, ...] | None
    weight: float
    origin: str

    @property
    def outputs(self) -> int:
        """Outputs that a head for it has."""
        return 1 if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Targets:
    """Targets, and the rows int64 [R], ascending, of the images that have all of them.

    Fields:
        notes: what there is to say of the others.
    """

    rows: Rows
    each: tuple[Target, ...]
    notes: tuple[str, ...] = ()

    def at(self, rows: Rows) -> dict[str, Tensor]:
        """Return the values of some rows by name, each [B]."""
        places = torch.from_numpy(rows)
        return {target.name: target.values[places] for target in self.each}

    def part(self, part: str) -> "Targets":
        """Return those of one objective among several, as `all_of` has named them."""
        own = tuple(one for one in self.each if one.name.startswith(f"{part}/"))
        return Targets(self.rows, own)

    def provenance(self) -> dict[str, Any]:
        """Return how many labels are read, those of images held out included, and which."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows, "<i8").tobytes())
        for values in self.at(self.rows).values():
            digest.update(values.numpy().tobytes())
        return {
            "labels": len(self.rows) * len(self.each),
            "label_sources": [target.origin for target in self.each],
            "labels_sha256": digest.hexdigest(),
        }


def all_of(parts: Mapping[str, Targets]) -> Targets | None:
    """Return the targets of several objectives, each named PART/NAME; None where there are none."""
    if not parts:
        return None
    each = [
        Target(f"{part}/{one.name}", one.values, one.classes, one.weight, one.origin)
        for part, targets in parts.items()
        for one in targets.each
    ]
    rows, *others = (targets.rows for targets in parts.values())
    for other in others:
        rows = np.intersect1d(rows, other, assume_unique=True)
    notes = [note for targets in parts.values() for note in targets.notes]
    return Targets(rows, tuple(each), tuple(dict.fromkeys(notes)))


class TargetBatches:
    """Batches that hold the values of targets beside what another source gives."""

    def __init__(self, source: BatchSource, batches: Batches, targets: Targets) -> None:
        """Add to the batches of `source`, whose images are those of `batches` at each step."""
        self.batch_size = source.batch_size
        self._source = source
        self._batches = batches
        self._targets = targets

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows [start, stop) of the step's global batch; each target under its name, [B]."""
        beside = self._targets.at(self._batches.indices(step)[start:stop])
        return {**self._source.batch(step, start, stop), **beside}
