"""A trained classifier scored on labelled images that it has not seen.

Shapes: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.label_file import read_label_file
from data.shards import Sample, expand_shards
from data.store import dataset_of
from downstream.classify import Pixels
from downstream.confusion import ClassScores, class_scores, confusion_matrix, wilson_interval
from downstream.inputs import listed
from downstream.reliability import Bin, calibration_error, reliability
from downstream.sample_predictions import score_samples
from models.classifier_file import ClassifierHeader, TrainedClassifier
from training.errors import InputError

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
    model: TrainedClassifier,
    model_path: Path,
    shards: Sequence[str],
    *,
    labels: Path | None = None,
    fit: bool = False,
) -> Evaluation | None:
    """Predict all labelled images of shards with a model of classes, and score that.

    Args:
        shards: paths or patterns, as for `expand_shards`.
        labels: a CSV file of labels by key; None: those that the shards hold.
        fit: bring images to the size and the channels that the model takes.
    Returns:
        None where a signal ended it.
    Raises:
        InputError, DataError, ModelError: a label of a class that the model does not have, naming
            the sample or the line; no image that can be scored; one line.
    """
    if labels is None:
        number = _class_numbers(expand_shards(shards), model.classes, model_path)
    else:
        number = _classes_by_key(labels, model.classes, model_path)

    def confidence_of_mistake(said: Tensor, truth: int) -> float | None:
        return None if int(said.argmax()) == truth else float(said.max())

    found = score_samples(model, model_path, shards, number, confidence_of_mistake, fit=fit)
    if found is None:
        return None
    mistakes = [
        Mistake(p.sample.key, p.pixels, truth, int(p.values.argmax()), float(p.values.max()))
        for p, truth in found.worst
    ]
    return Evaluation(
        model_path,
        model.header,
        tuple(shards),
        np.array(found.truths, np.int64),
        found.values,
        tuple(mistakes),
        found.unusable,
        found.unlabelled,
    )


def _classes_by_key(
    labels: Path, known: Sequence[str], model: Path
) -> Callable[[Sample], int | None]:
    """Return what gives a sample's class among those that the model knows; None: no label."""
    file = read_label_file(labels)
    names, numbers = file.classes(known)
    if list(names) != list(known):
        raise InputError(
            f"{labels}: has the classes {listed(names)}, but {model} knows the {len(known)} "
            f"classes {listed(known)}; give labels of these"
        )
    by_key = dict(zip(file.keys, numbers.tolist(), strict=True))
    return lambda sample: by_key.get(sample.key)


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
