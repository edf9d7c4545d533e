"""A trained classifier scored on labelled images that it has not seen.

Shapes: N images, C channels, H height, W width, K classes.
"""

import heapq
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.progress import Progress
from data.shards import BadSample, Sample, expand_shards
from data.store import dataset_of, expected_count
from data.store_build import decode_all
from downstream.classify import AT_ONCE, Pixels, classify, open_classifier, square_side
from downstream.confusion import ClassScores, class_scores, confusion_matrix, wilson_interval
from downstream.inputs import listed
from downstream.reliability import Bin, calibration_error, reliability
from models.classifier_file import ClassifierHeader
from models.errors import ModelError
from models.outputs import Classes
from training.errors import InputError
from training.signals import StopRequest

METRICS = "metrics.json"
MOST_MISTAKES = 48
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Mistake:
    """An image [C, H, W] that was taken for another class, and with which confidence."""

    name: str
    pixels: Pixels
    truth: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of labelled images, and the scores of that.

    Fields:
        model, header: the classifier's file, and what it says about itself.
        shards: as they were given.
        labels: int64 [N] and probabilities: float64 [N, K], in the order of the shards.
        mistakes: those of the highest confidence, highest first.
        skipped, unlabelled: images that could not be used, and that have no label.
    """

    model: Path
    header: ClassifierHeader
    shards: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    mistakes: tuple[Mistake, ...]
    skipped: int
    unlabelled: int

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts by true class (rows) and predicted class (columns), [K, K]."""
        classes = len(self.header.classes)
        return confusion_matrix(self.labels, self.probabilities.argmax(axis=1), classes)

    @cached_property
    def classes(self) -> list[ClassScores]:
        """Scores of each class, K."""
        return class_scores(self.confusion)

    @property
    def accuracy(self) -> float:
        """Share of images that are right."""
        return int(self.confusion.trace()) / len(self)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Its 95 % interval over the choice of images; the training is taken as it is."""
        return wilson_interval(int(self.confusion.trace()), len(self))

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur among labels or predictions."""
        return float(np.mean([one.f1 for one in self.classes if one.f1 is not None]))

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats."""
        true = np.take_along_axis(self.probabilities, self.labels[:, None], axis=1)
        return float(-np.log(true.clip(_SMALLEST)).mean())

    @cached_property
    def bins(self) -> list[Bin]:
        """Images by confidence."""
        right = self.probabilities.argmax(axis=1) == self.labels
        return reliability(self.probabilities.max(axis=1), right)

    @property
    def ece(self) -> float:
        """Expected calibration error over these bins."""
        return calibration_error(self.bins)

    def abstaining(self) -> dict[str, tuple[float, float, float | None]]:
        """For each wanted accuracy that the model knows a threshold for: the threshold, the share
        of images that are then predicted, and how many of these are right."""
        found = {}
        confidence = self.probabilities.max(axis=1)
        right = self.probabilities.argmax(axis=1) == self.labels
        for wanted, threshold in self.header.calibration.abstain_below.items():
            kept = confidence >= threshold
            accuracy = float(right[kept].mean()) if kept.any() else None
            found[wanted] = (threshold, float(kept.mean()), accuracy)
        return found


def evaluate(
    model_path: Path,
    shards: Sequence[str],
    out: Path,
    *,
    fit: bool = False,
    overwrite: bool = False,
    allow_external: bool = False,
) -> Evaluation | None:
    """Predict all labelled images of shards, in order and in bounded memory, and write nothing.

    Images that cannot be used, and those without a label, are counted, and the first is named on
    stderr.

    Args:
        shards: paths or patterns, as for `expand_shards`.
        out: the folder that is to be written afterwards.
        fit: bring images to the size and the channels that the model takes.
        overwrite: an evaluation in the folder may be replaced.
    Returns:
        None where a signal ended it.
    Raises:
        InputError, DataError, ModelError: a label of a class that the model does not have, naming
            the sample; no image that can be scored; one line.
    """
    if (out / METRICS).exists() and not overwrite:
        raise InputError(
            f"--out: {out} holds an evaluation; --overwrite replaces it, or give another folder"
        )
    paths = expand_shards(shards)
    model = open_classifier(model_path, allow_external=allow_external)
    if not isinstance(model.header.output, Classes):
        raise ModelError(
            f"{model_path} tells no classes apart, its output is {model.header.output.kind}; "
            "`python -m downstream train` scores it on data.test"
        )
    contract = model.header.encoder.input
    size = square_side(contract, model_path) if fit else None
    number = _class_numbers(paths, model.classes, model_path)
    labels: list[int] = []
    probabilities: list[Tensor] = []
    worst: list[tuple[float, int, Mistake]] = []
    left_out: list[str] = []
    unlabelled: list[str] = []
    with StopRequest() as stop, Progress("predicting", expected_count(paths)) as progress:
        decoded = decode_all(paths, contract.channels if fit else None, size)
        for block in iter(lambda: list(itertools.islice(decoded, AT_ONCE)), []):
            if stop.requested:
                return None
            truths = [number(sample) if isinstance(sample, Sample) else None for sample, _ in block]
            images = [_pixels(sample, image) for sample, image in block]
            for (sample, _), truth, image, said in zip(
                block, truths, images, classify(model, images), strict=True
            ):
                progress.step()
                if isinstance(said, str) or isinstance(image, str):
                    bad = BadSample(sample.shard, sample.offset, sample.key, str(said))
                    left_out.append(str(bad))
                elif truth is None:
                    unlabelled.append(f"{sample.shard} key {sample.key}")
                else:
                    labels.append(truth)
                    probabilities.append(said)
                    if (best := int(said.argmax())) != truth:
                        mistake = Mistake(sample.key, image, truth, best, float(said[best]))
                        heapq.heappush(worst, (mistake.confidence, -len(labels), mistake))
                        if len(worst) > MOST_MISTAKES:
                            heapq.heappop(worst)
    _warn("cannot be used", left_out)
    _warn("have no label (.cls)", unlabelled)
    if not labels:
        raise InputError(f"{' '.join(shards)}: no image with a label can be used; give others")
    return Evaluation(
        model_path,
        model.header,
        tuple(shards),
        np.array(labels, np.int64),
        torch.stack(probabilities).double().numpy(),
        tuple(mistake for *_, mistake in sorted(worst, reverse=True)),
        len(left_out),
        len(unlabelled),
    )


def _class_numbers(
    shards: Sequence[Path], known: Sequence[str], model: Path
) -> Callable[[Sample], int | None]:
    """Return what gives a sample's class among those that the model knows; None: no label."""
    info = dataset_of(shards)
    names = info.classes if info is not None else None
    by_name = names is not None and (
        set(names) <= set(known) or not (_are_numbers(names) or _are_numbers(known))
    )

    def number(sample: Sample) -> int | None:
        label = sample.label
        if label is None:
            return None
        if by_name and names is not None and label < len(names):
            if names[label] in known:
                return known.index(names[label])
            found = f"class {names[label]!r}"
        else:
            if not by_name and label < len(known):
                return label
            found = f"label {label}"
        raise InputError(
            f"{sample.shard} key {sample.key}: {found}, but {model} knows the {len(known)} classes "
            f"{listed(known)}; leave such images out, or train a model that knows them"
        )

    return number


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether classes have no names but their labels."""
    return list(names) == [str(label) for label in range(len(names))]


def _pixels(sample: Sample | BadSample, image: Pixels | str | None) -> Pixels | str:
    if isinstance(sample, BadSample):
        return sample.reason
    assert image is not None
    return image


def _warn(what: str, images: Sequence[str]) -> None:
    if images:
        print(f"warning: {len(images)} image(s) {what}, the first: {images[0]}", file=sys.stderr)
