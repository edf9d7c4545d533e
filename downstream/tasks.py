"""What is to be learnt: images with labels, of classes, several labels at once, or quantities.

Shapes: N images, K classes, labels or quantities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.label_file import LabelFile, read_label_file
from data.labels import budget_order, check_budget
from data.store import ResidentStore
from downstream.inputs import LabelledImages, labelled, names_of_classes
from downstream.train_config import TaskKind
from models.outputs import Classes, MultiLabel, Output, Regression
from training.errors import InputError


@dataclass(frozen=True)
class LabelledPart:
    """A split of which some images may have no label.

    Fields:
        images: whose labels are int64 [N], or float32 [N, K]; without meaning where there is none.
        rows: ascending rows that have a label.
    """

    images: LabelledImages
    rows: NDArray[np.int64]

    @property
    def labels(self) -> Tensor:
        """Labels of `rows`."""
        return self.images.labels[torch.from_numpy(self.rows)]


@dataclass(frozen=True)
class Task:
    """What is learnt from and tested on, and what scores mean.

    Fields:
        names: of the classes, labels or quantities, K.
    """

    output: Output
    names: tuple[str, ...]
    train: LabelledPart
    test: LabelledPart | None


def open_task(
    kind: TaskKind, train: ResidentStore, test: ResidentStore | None, labels: str | None
) -> Task:
    """Read the labels of a training and a test set.

    Args:
        labels: path of a CSV file with labels by key; None: those that the shards hold.
    Raises:
        DataError, InputError: one line that names the file with the line, or the key.
    """
    if labels is None:
        names = names_of_classes(train, test)
        parts = [None if s is None else _whole(labelled(n, s)) for n, s in _splits(train, test)]
        assert parts[0] is not None
        return Task(Classes(), names, parts[0], parts[1])
    file = read_label_file(labels)
    stores = [store for _, store in _splits(train, test) if store is not None]
    file.check_known({key for store in stores for key in store.keys})
    output: Output = Classes()
    names = file.columns
    match kind:
        case "classes":
            names, classes = file.classes(train.classes)
            values = torch.from_numpy(classes)
        case "multi_label":
            output, values = MultiLabel(), torch.from_numpy(file.yes_or_no())
        case "regression":
            output = Regression(means=(0.0,) * len(names), scales=(1.0,) * len(names))
            values = torch.from_numpy(file.numbers())
    known = _part("train", train, file, values)
    unseen = None if test is None else _part("test", test, file, values)
    if unseen is not None and isinstance(output, Classes):
        _check_same_classes(file, names, known.labels, unseen.labels)
    return Task(output, names, known, unseen)


def chosen_rows(
    task: Task, labels: int | None, *, draw: int, seed: int, key: str
) -> NDArray[np.int64]:
    """Return the rows of the training set whose labels are seen.

    Of classes the draw is balanced.

    Args:
        labels: how many; None: all that there are.
        key: that of how many, for the message.
    Raises:
        DataError, InputError: too many labels asked for, too few for the classes, or labels that
            are all equal.
    """
    strata = task.output.strata(task.train.labels).numpy()
    _check_different(task)
    if labels is None:
        return task.train.rows
    check_budget(strata, labels, len(np.unique(strata)), key=key)
    rows = task.train.rows[budget_order(strata, draw=draw, seed=seed)[:labels]]
    _check_different(replace(task, train=replace(task.train, rows=rows)))
    return rows


def standardized(task: Task, rows: NDArray[np.int64]) -> Task:
    """Return a task whose quantities are standardized by the labels that are seen.

    Those of the training set alone: the test set's stay in their own units.
    """
    if not isinstance(task.output, Regression):
        return task
    whole = task.train.images
    seen = whole.labels[torch.from_numpy(rows)].double()
    output = Regression(
        means=tuple(seen.mean(dim=0).tolist()),
        scales=tuple(seen.std(dim=0, correction=0).tolist()),
    )
    images = replace(whole, labels=output.standardized(whole.labels))
    return replace(task, output=output, train=replace(task.train, images=images))


def lone_classes(task: Task, rows: NDArray[np.int64]) -> list[str]:
    """Return the names of the classes that have a single label among rows."""
    if not isinstance(task.output, Classes):
        return []
    seen = task.train.images.labels[torch.from_numpy(rows)]
    counts = torch.bincount(seen, minlength=len(task.names))
    return [name for name, count in zip(task.names, counts.tolist(), strict=True) if count == 1]


def _check_different(task: Task) -> None:
    labels = task.train.labels
    equal = (labels == labels[:1]).all(dim=0)
    if isinstance(task.output, Classes):
        if equal:
            raise InputError(
                f"data.train: all {len(labels)} labels are {task.names[int(labels[0])]}; there is "
                "nothing to tell apart: give images of two classes or more"
            )
    elif equal.any():
        column = int(equal.nonzero()[0])
        raise InputError(
            f"data.labels: all {len(labels)} labels in column {task.names[column]} are "
            f"{float(labels[0, column]):g}; there is nothing to learn: leave the column out, or "
            "label other images"
        )


def _check_same_classes(
    file: LabelFile, names: tuple[str, ...], train: Tensor, test: Tensor
) -> None:
    unknown = sorted(set(test.tolist()) - set(train.tolist()))
    if unknown:
        raise InputError(
            f"data.test: {file.path} has images of class {names[unknown[0]]}, and none of them in "
            "data.train; training and test set need the same classes"
        )


def _splits(
    train: ResidentStore, test: ResidentStore | None
) -> list[tuple[str, ResidentStore | None]]:
    return [("train", train), ("test", test)]


def _whole(images: LabelledImages) -> LabelledPart:
    return LabelledPart(images, np.arange(len(images)))


def _part(split: str, store: ResidentStore, file: LabelFile, values: Tensor) -> LabelledPart:
    rows, lines = file.rows_of(store.keys)
    if not len(rows):
        raise InputError(
            f"data.labels: {file.path} has no line for an image of data.{split}, whose first key "
            f"is {store.keys[0]}"
        )
    labels = values.new_zeros(len(store), *values.shape[1:])
    labels[torch.from_numpy(rows)] = values[torch.from_numpy(lines)]
    name = store.info.name if store.info else None
    return LabelledPart(LabelledImages(store.images, labels, store.fingerprint, name), rows)
