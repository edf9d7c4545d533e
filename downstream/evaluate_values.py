"""A trained model of several labels, or of quantities, scored on images that it has not seen.

Shapes: N images, C channels, H height, W width, K labels or quantities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.label_file import LabelFile, read_label_file
from downstream.classify import Pixels
from downstream.output_scores import average_precision, scores_of
from downstream.reliability import calibration_error, reliability
from downstream.sample_predictions import score_samples
from models.classifier_file import ClassifierHeader, TrainedClassifier
from models.outputs import MultiLabel, Regression
from training.errors import InputError

_CERTAIN = 0.5
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Miss:
    """An image [C, H, W] with what was said of it and what is true, each [K]."""

    name: str
    pixels: Pixels
    said: Tensor
    truth: Tensor


@dataclass(frozen=True)
class ValueEvaluation:
    """What a model said of images, and the scores of that.

    Fields:
        model, header: the model's file, and what it says about itself.
        shards, labels: as they were given.
        values, truths: float64 [N, K], in the order of the shards: probabilities and 0 or 1, or
            quantities in their own units.
        misses: those furthest off, furthest first.
        skipped, unlabelled: images that could not be used, and that have no label.
    """

    model: Path
    header: ClassifierHeader
    shards: tuple[str, ...]
    labels: Path
    values: NDArray[np.float64]
    truths: NDArray[np.float64]
    misses: tuple[Miss, ...]
    skipped: int
    unlabelled: int

    def __len__(self) -> int:
        return len(self.truths)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Scores over all labels or quantities; of several labels with the calibration error."""
        values, truths = torch.from_numpy(self.values), torch.from_numpy(self.truths)
        scores = scores_of(self.header.output, values, truths)
        if isinstance(self.header.output, MultiLabel):
            right = (self.values >= _CERTAIN) == (self.truths > 0)
            confidence = np.maximum(self.values, 1 - self.values)
            scores["ece"] = calibration_error(reliability(confidence.ravel(), right.ravel()))
        return scores

    @cached_property
    def by_name(self) -> dict[str, dict[str, float | None]]:
        """Scores of each label or quantity; None where there is nothing to score."""
        one = _label_scores if isinstance(self.header.output, MultiLabel) else _quantity_scores
        columns = zip(self.header.classes, self.values.T, self.truths.T, strict=True)
        return {name: one(values, truths) for name, values, truths in columns}


def evaluate_values(
    model: TrainedClassifier,
    model_path: Path,
    shards: Sequence[str],
    *,
    labels: Path,
    fit: bool = False,
) -> ValueEvaluation | None:
    """Predict all images of shards that have a line in a file of labels, and score that.

    Args:
        shards: paths or patterns, as for `expand_shards`.
        labels: a CSV file with the column key and the model's columns.
        fit: bring images to the size and the channels that the model takes.
    Returns:
        None where a signal ended it.
    Raises:
        InputError, DataError: the file has other columns, or says something that is no label; no
            image that can be scored; one line.
    """
    truths = _truths(read_label_file(labels), model, model_path)
    found = score_samples(
        model,
        model_path,
        shards,
        lambda sample: truths.get(sample.key),
        partial(_distance, model),
        fit=fit,
    )
    if found is None:
        return None
    return ValueEvaluation(
        model_path,
        model.header,
        tuple(shards),
        labels,
        found.values,
        torch.stack(list(found.truths)).double().numpy(),
        tuple(Miss(p.sample.key, p.pixels, p.values, truth) for p, truth in found.worst),
        found.unusable,
        found.unlabelled,
    )


def _truths(file: LabelFile, model: TrainedClassifier, path: Path) -> dict[str, Tensor]:
    if set(file.columns) != set(model.classes):
        raise InputError(
            f"{file.path}: has the columns {', '.join(file.columns)} beside key, but {path} has "
            f"learnt {', '.join(model.classes)}; give these"
        )
    several = isinstance(model.header.output, MultiLabel)
    values = file.yes_or_no() if several else file.numbers()
    order = [file.columns.index(name) for name in model.classes]
    return dict(zip(file.keys, torch.from_numpy(values[:, order]), strict=True))


def _distance(model: TrainedClassifier, said: Tensor, truth: Tensor) -> float:
    """Mean distance of what was said from the truth; of quantities in their deviations."""
    apart = (said - truth).abs()
    output = model.header.output
    if isinstance(output, Regression):
        apart = apart / apart.new_tensor(output.scales)
    return float(apart.mean())


def _label_scores(
    values: NDArray[np.float64], truths: NDArray[np.float64]
) -> dict[str, float | None]:
    true, predicted = truths > 0, values >= _CERTAIN
    hits = int((true & predicted).sum())

    def share(whole: int, part: int = hits) -> float | None:
        return part / whole if whole else None

    return {
        "average_precision": average_precision(values, true) if true.any() else None,
        "precision": share(int(predicted.sum())),
        "recall": share(int(true.sum())),
        "f1": share(int(true.sum()) + int(predicted.sum()), 2 * hits),
        "support": int(true.sum()),
    }


def _quantity_scores(
    values: NDArray[np.float64], truths: NDArray[np.float64]
) -> dict[str, float | None]:
    errors = values - truths
    spread = float(np.square(truths - truths.mean()).sum())
    return {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "r2": 1 - float(np.square(errors).sum()) / spread if spread > _SMALLEST else None,
    }
