"""What a trained model says of the samples of shards, in order and in bounded memory.

Shapes: C channels, H height, W width, K classes, labels or quantities.
"""

import heapq
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.progress import Progress
from data.shards import BadSample, Sample, expand_shards
from data.store import expected_count
from data.store_build import decode_all
from downstream.classify import AT_ONCE, Pixels, classify, square_side
from models.classifier_file import TrainedClassifier
from training.errors import InputError
from training.signals import StopRequest

MOST_MISTAKES = 48


@dataclass(frozen=True)
class Prediction:
    """An image uint8 [C, H, W] of a sample, and the model's values [K]."""

    sample: Sample
    pixels: Pixels
    values: Tensor


Truth = TypeVar("Truth")


@dataclass(frozen=True)
class Scored(Generic[Truth]):
    """What a model said of labelled images, in the order of the shards.

    Fields:
        values: float64 [N, K]; truths: of each image.
        worst: predictions with their truths, at most 48, the worst first.
        unusable, unlabelled: how many images could not be used, and have no label.
    """

    values: NDArray[np.float64]
    truths: Sequence[Truth]
    worst: Sequence[tuple[Prediction, Truth]]
    unusable: int
    unlabelled: int


def score_samples(
    model: TrainedClassifier,
    path: Path,
    shards: Sequence[str],
    truth_of: Callable[[Sample], Truth | None],
    badness: Callable[[Tensor, Truth], float | None],
    *,
    fit: bool,
) -> Scored[Truth] | None:
    """Predict all labelled images of shards, and remember the worst predictions.

    Images that cannot be used, and those without a label, are counted, and the first is named on
    stderr.

    Args:
        path: of the model's file, for messages.
        shards: paths or patterns, as for `expand_shards`.
        truth_of: a sample's label; None: it has none.
        badness: how bad values [K] are, given the truth; None: they are right.
        fit: bring images to the size and the channels that the model takes.
    Returns:
        None where a signal ended it.
    Raises:
        InputError, DataError: no image that can be scored, or images are to be brought to a shape
            that is no square; one line.
    """
    paths = expand_shards(shards)
    values: list[Tensor] = []
    truths: list[Truth] = []
    worst: list[tuple[float, int, Prediction, Truth]] = []
    unusable: list[str] = []
    unlabelled: list[str] = []
    with StopRequest() as stop, Progress("predicting", expected_count(paths)) as progress:
        for block in _predicted(model, path, paths, unusable, fit=fit):
            if stop.requested:
                return None
            progress.step(len(block))
            for found in block:
                truth = truth_of(found.sample)
                if truth is None:
                    unlabelled.append(f"{found.sample.shard} key {found.sample.key}")
                    continue
                values.append(found.values)
                truths.append(truth)
                if (bad := badness(found.values, truth)) is not None:
                    heapq.heappush(worst, (bad, -len(truths), found, truth))
                    if len(worst) > MOST_MISTAKES:
                        heapq.heappop(worst)
    _warn("cannot be used", unusable)
    _warn("have no label", unlabelled)
    if not truths:
        raise InputError(f"{' '.join(shards)}: no image with a label can be used; give others")
    return Scored(
        torch.stack(values).double().numpy(),
        truths,
        [(found, truth) for *_, found, truth in sorted(worst, key=lambda w: w[:2], reverse=True)],
        len(unusable),
        len(unlabelled),
    )


def _predicted(
    model: TrainedClassifier, path: Path, shards: Sequence[Path], unusable: list[str], *, fit: bool
) -> Iterator[list[Prediction]]:
    """Yield the predictions of a block of samples at a time; say why others have none."""
    contract = model.header.encoder.input
    size = square_side(contract, path) if fit else None
    decoded = decode_all(shards, contract.channels if fit else None, size)
    for block in iter(lambda: list(itertools.islice(decoded, AT_ONCE)), []):
        images = [_pixels(sample, image) for sample, image in block]
        found = []
        for (sample, _), image, said in zip(block, images, classify(model, images), strict=True):
            if isinstance(sample, BadSample) or isinstance(image, str) or isinstance(said, str):
                bad = BadSample(sample.shard, sample.offset, sample.key, str(said))
                unusable.append(str(bad))
            else:
                found.append(Prediction(sample, image, said))
        yield found


def _pixels(sample: Sample | BadSample, image: Pixels | str | None) -> Pixels | str:
    if isinstance(sample, BadSample):
        return sample.reason
    assert image is not None
    return image


def _warn(what: str, images: Sequence[str]) -> None:
    if images:
        print(f"warning: {len(images)} image(s) {what}, the first: {images[0]}", file=sys.stderr)
