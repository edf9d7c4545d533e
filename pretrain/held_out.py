"""Images kept out of training, and the objective's loss on them.

Shapes: N images, B rows of a batch, C channels, H height, W width.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.image_rows import ImageRows
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws, derive_seed
from training.trainable import Trainable

Rows = npt.NDArray[np.int64]

_MOST_IMAGES = 10_000
_PREFIX = "held_out/"
_UNLIKE_TRAINING = ("lr", "grad_norm")


def split_rows(count: int, share: float) -> tuple[Rows, Rows]:
    """Return the rows of N images to train on and those to keep out, each ascending.

    They depend on N and the share alone: runs with other seeds keep out the same images, so that
    their losses compare.

    Args:
        count: N.
        share: in [0, 1), of the images to keep out.
    Raises:
        InputError: a share that leaves no image on one of the sides; one line.
    """
    kept_out = round(share * count)
    if share > 0 and not 0 < kept_out < count:
        raise InputError(
            f"data.held_out: found {share:g}, which is {kept_out:,} of {count:,} images; "
            "give a share that leaves some to train on and some to measure, or 0"
        )
    generator = torch.Generator().manual_seed(derive_seed(0, "held_out", count))
    order = torch.randperm(count, generator=generator).numpy()
    return np.sort(order[kept_out:]), np.sort(order[:kept_out])


class Values(Protocol):
    """What is known of images besides themselves."""

    def at(self, rows: Rows) -> dict[str, Tensor]:
        """Return the values of some rows by name, each [B]."""


class HeldOutLoss:
    """A monitor: the losses and metrics of a step's phases on images that are not trained on.

    Named as in training, behind "held_out/". In eval mode, and with the same random draws each
    time and in every run, so that values compare. At most the first 10,000 images are used.
    """

    def __init__(
        self,
        trainer: Trainer,
        images: ImageRows,
        rows: Rows,
        *,
        trained: Rows,
        targets: Values | None = None,
        compared: Collection[str] = (),
    ) -> None:
        """Measure on rows of images uint8 [N, C, H, W], in batches of training's size.

        Args:
            trainer: whose losses they are.
            images: all.
            rows: of those that are kept out.
            trained: of those that are trained on.
            targets: what batches hold besides; None: nothing.
            compared: metrics that are measured on as many of these too, with the same weights;
                what is larger on images held out is given as NAME_gap.
        """
        self._trainer = trainer
        self._images = images
        self._targets = targets
        self._compared = compared
        rows = rows[:_MOST_IMAGES]
        alike = trained[np.linspace(0, len(trained) - 1, min(len(rows), len(trained)), dtype=int)]
        size = trainer.batches.batch_size
        self._parts, self._trained_parts = (
            np.array_split(some, math.ceil(len(some) / size)) for some in (rows, alike)
        )

    @property
    def names(self) -> Sequence[str]:
        """The metrics of training, but for those of its updates, and the gaps."""
        names = self._trainer.metric_names()
        return [
            *(_PREFIX + name for name in names if name.split("/")[-1] not in _UNLIKE_TRAINING),
            *map(_gap, self._compared_of(names)),
        ]

    def __call__(self, step: int, trainable: Trainable) -> dict[str, float]:
        """Return means over the images."""
        means = self._means(self._parts, step, trainable)
        values = {_PREFIX + name: mean for name, mean in means.items()}
        if compared := self._compared_of(means):
            trained = self._means(self._trained_parts, step, trainable)
            values |= {_gap(name): means[name] - trained[name] for name in compared}
        return values

    def _compared_of(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name.split("/")[-1] in self._compared]

    def _means(self, parts: Sequence[Rows], step: int, trainable: Trainable) -> dict[str, float]:
        device = next(trainable.parameters()).device
        count = sum(map(len, parts))
        totals: dict[str, float] = {}
        for part, rows in enumerate(parts):
            values = {"images": self._images[torch.from_numpy(rows)]}
            if self._targets is not None:
                values |= self._targets.at(rows)
            batch = {name: value.to(device) for name, value in values.items()}
            draws = StepDraws(0, part, device, len(rows), 0, len(rows))
            found = self._trainer.evaluate(trainable, step - 1, batch, draws)
            numbers = torch.stack([value.float() for value in found.values()]).tolist()
            for name, number in zip(found, numbers, strict=True):
                totals[name] = totals.get(name, 0.0) + number * len(rows)
        return {name: total / count for name, total in totals.items()}


def _gap(name: str) -> str:
    return f"{name}_gap"
