"""A trained model of several labels, or of quantities, scored on images that it has not seen.

Shapes: N images, C channels, H height, W width, K labels or quantities.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.label_file import LabelFile, read_label_file
from data.progress import Progress
from data.shards import expand_shards
from data.store import expected_count
from downstream.classify import Pixels
from downstream.evaluate import MOST_MISTAKES, no_images
from downstream.output_scores import average_precision, scores_of
from downstream.reliability import calibration_error, reliability
from downstream.sample_predictions import LeftOut, predict_samples
from models.classifier_file import ClassifierHeader, TrainedClassifier
from models.outputs import MultiLabel, Regression
from training.errors import InputError
from training.signals import StopRequest

_CERTAIN = 0.5
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Miss:
    """An image [C, H, W] with what was said of it and what is true, each [K], and how far off."""

    name: str
    pixels: Pixels
    said: Tensor
    truth: Tensor
    distance: float


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
    paths = expand_shards(shards)
    truth_of = _truths(read_label_file(labels), model, model_path)
    said: list[Tensor] = []
    truths: list[Tensor] = []
    worst: list[tuple[float, int, Miss]] = []
    left_out = LeftOut()
    with StopRequest() as stop, Progress("predicting", expected_count(paths)) as progress:
        for block in predict_samples(model, model_path, paths, left_out, fit=fit):
            if stop.requested:
                return None
            progress.step(len(block))
            for found in block:
                truth = truth_of.get(found.sample.key)
                if truth is None:
                    left_out.unlabelled.append(f"{found.sample.shard} key {found.sample.key}")
                    continue
                said.append(found.values)
                truths.append(truth)
                distance = _distance(model, found.values, truth)
                miss = Miss(found.sample.key, found.pixels, found.values, truth, distance)
                heapq.heappush(worst, (distance, -len(said), miss))
                if len(worst) > MOST_MISTAKES:
                    heapq.heappop(worst)
    left_out.warn()
    if not said:
        raise no_images(shards)
    return ValueEvaluation(
        model_path,
        model.header,
        tuple(shards),
        labels,
        torch.stack(said).double().numpy(),
        torch.stack(truths).double().numpy(),
        tuple(miss for *_, miss in sorted(worst, reverse=True)),
        len(left_out.unusable),
        len(left_out.unlabelled),
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
