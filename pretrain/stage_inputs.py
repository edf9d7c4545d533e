"""What the stages below a trained one give: computed anew, or once for all images and kept.

Shapes: N images that are trained on, G rows of a global batch, B of them at hand; *I those of a
stage's input without the batch axis.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from data.batches import Batches
from models.encoders import Encoder
from pretrain.objective import to_float
from training.trainable import Batch

_GIB = 2**30


class Below(NamedTuple):
    """Which stage's features a step needs, and whether it needs the images beside them."""

    stage: str
    images: bool


class Plan(Protocol):
    """Says for each step what it needs."""

    def below(self, step: int) -> Below | None:
        """Return it; None where the step needs the images alone."""


@torch.no_grad()
def features_at_rest(encoder: Encoder, stage: str, images: Tensor) -> Tensor:
    """Return a stage's features of images [B, C, H, W] in [0, 1], float32 without gradient.

    The stages run in eval mode, so that nothing in them moves.
    """
    with _at_rest(encoder, stage):
        return encoder(images, upto=stage).float()


@contextmanager
def _at_rest(encoder: Encoder, stage: str) -> Iterator[None]:
    below = encoder.stage_names[: encoder.stage_names.index(stage) + 1]
    modes = {part: part.training for name in below for part in encoder.blocks[name].modules()}
    for name in below:
        encoder.blocks[name].eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class StageInputs:
    """Batches in which frozen stages' features stand in the place of the images they are of.

    They are computed when the first step asks for them, for all images in the order of the data,
    so that a resumed run has the same ones. One stage's are kept at a time, in float32 where that
    fits under the limit, else in float16, else not at all: such batches hold the images alone.
    """

    def __init__(self, batches: Batches, plan: Plan, encoder: Encoder, *, limit_gib: float) -> None:
        """Read from `batches`; `limit_gib` is the most memory that features may take."""
        self.batch_size = batches.batch_size
        self._images = batches
        self._plan = plan
        self._encoder = encoder
        self._limit = limit_gib * _GIB
        self._kept: str | None = None
        self._features: Batches | None = None

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> Batch:
        """Return rows [start, stop) of the step's global batch.

        "images": uint8 [B, C, H, W], "features": float [B, *I], or both, as the plan says.
        """
        below = self._plan.below(step)
        if below is None:
            self._kept = self._features = None
            return self._images.batch(step, start, stop)
        if self._kept != below.stage:
            self._features = None  # before there is room for the next ones
            self._features = self._compute(below.stage)
            self._kept = below.stage
        if self._features is None:
            return self._images.batch(step, start, stop)
        batch = {"features": self._features.batch(step, start, stop)["images"]}
        return batch | self._images.batch(step, start, stop) if below.images else batch

    def _compute(self, stage: str) -> Batches | None:
        shape, count = self._encoder.output_shapes[stage], len(self._images)
        values = count * math.prod(shape)
        if values * torch.float16.itemsize > self._limit:
            return None
        fits = values * torch.float32.itemsize <= self._limit
        features = torch.empty(count, *shape, dtype=torch.float32 if fits else torch.float16)
        # Other batches than training's would compile everything once more.
        with torch.compiler.set_stance("force_eager"):
            for start in range(0, count, self.batch_size):
                stop = start + self.batch_size
                images = to_float(self._images.in_order(start, stop))
                features[start:stop] = features_at_rest(self._encoder, stage, images)
        return self._images.of(features)
