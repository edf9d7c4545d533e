"""Learning labels that cost nothing: what is known of the images anyway, or told by heuristics.

Ratner et al. 2017, "Snorkel: Rapid Training Data Creation with Weak Supervision", for labels by
functions; several at once as in Caruana 1997, "Multitask Learning".

Shapes: N images of a store.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from data.indexed_store import IndexedStore
from data.store import ResidentStore
from pretrain.label_sources import LabelSource, ShardNames, Value, Values, keys_of, read_values
from pretrain.supervised import LabelHeadsConfig
from pretrain.targets import Target, Targets
from training.errors import InputError
from training.names import PlainName

_BESIDE = ("images", "places")
"""What a batch holds beside labels."""


class LabelConfig(BaseModel):
    """One label of each image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: LabelSource
    kind: Literal["classification", "regression"] = Field(
        "classification",
        description="classification: a class for each different value; regression: numbers, which "
        "are standardized",
    )
    weight: float = Field(1.0, gt=0, description="of its loss among those of other labels")


class LabelsConfig(LabelHeadsConfig):
    """Learn labels that are there with the images (Caruana 1997)."""

    kind: Literal["labels"] = "labels"
    labels: Annotated[dict[PlainName, LabelConfig], Field(min_length=1)] = Field(
        {"shard": LabelConfig(source=ShardNames())}, description="labels by names of your own"
    )
    on_missing: Literal["fatal", "leave_out"] = Field(
        "fatal",
        description="what an image without one of the labels does: end the run, or not be"
        " learned from",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> "LabelsConfig":
        for name in _BESIDE:
            if name in self.labels:
                raise ValueError(
                    f"found a label called {name}, as are other values of every batch; call it "
                    "otherwise"
                )
        return self


def label_targets(
    config: LabelsConfig,
    store: ResidentStore | IndexedStore,
    shards: str | Sequence[str],
    cache: Path,
) -> Targets:
    """Return what the config's labels are, and the rows of the images that have all of them.

    Args:
        shards: where the images of `store` are.
        cache: folder where what functions say is kept.
    Raises:
        InputError, DataError: as `read_values`; an image without a label where that is fatal, a
            label that is the same for all, or no number where one is wanted; one line.
    """
    values = {
        name: read_values(label.source, store, shards, cache, key=f"objective.labels.{name}")
        for name, label in config.labels.items()
    }
    labelled = np.ones(len(store), bool)
    for name, own in values.items():
        known = np.array([value is not None for value in own])
        if config.on_missing == "fatal" and not known.all():
            first = keys_of(store)[int(np.argmin(known))]
            raise InputError(
                f"objective.labels.{name}: {int((~known).sum()):,} of {len(store):,} images have "
                f"no label, the first key: {first}; label them, or set objective.on_missing to "
                "leave_out"
            )
        labelled &= known
    rows = np.flatnonzero(labelled)
    if len(rows) == 0:
        raise InputError(
            f"objective.labels: no image of data.shards has a label, the first key: "
            f"{keys_of(store)[0]}; are the keys those in the shards?"
        )
    left_out = len(store) - len(rows)
    said = f"{left_out:,} of {len(store):,} images have no label and are left out"
    targets = tuple(
        _target(name, label, values[name], rows, keys_of(store))
        for name, label in config.labels.items()
    )
    rare = (
        f"objective.labels.{one.name} has {len(one.classes):,} classes among {len(rows):,} images; "
        "where it is a quantity, give it kind regression"
        for one in targets
        if one.classes is not None and 2 * len(one.classes) > len(rows)
    )
    return Targets(rows, targets, (*([said] if left_out else []), *rare))


def _target(
    name: str, label: LabelConfig, values: Values, rows: np.ndarray, keys: Sequence[str]
) -> Target:
    where = f"objective.labels.{name}"
    known = [value for row in rows.tolist() if (value := values[row]) is not None]
    if label.kind == "regression":
        numbers = [_number(value, keys[row], where) for value, row in zip(known, rows, strict=True)]
        found, classes = _standardized(torch.tensor(numbers, dtype=torch.float64), where), None
    else:
        # Numbers in their own order, and as text where there are both.
        different: list[Value] = sorted(set(known), key=lambda v: (isinstance(v, str), v))
        place = {value: number for number, value in enumerate(different)}
        found = torch.tensor([place[value] for value in known])
        classes = tuple(map(str, different))
        if len(classes) < 2:
            raise InputError(
                f"{where}: all {len(known):,} images have the label {classes[0]!r}; there is "
                "nothing to tell apart"
            )
    whole = torch.zeros(len(values), dtype=found.dtype)
    whole[torch.from_numpy(rows)] = found
    return Target(name, whole, classes, label.weight, f"{name} ({label.source.origin})")


def _standardized(numbers: Tensor, where: str) -> Tensor:
    std, mean = torch.std_mean(numbers, correction=0)
    if not std.isfinite():
        raise InputError(
            f"{where}: found values from {numbers.min().item():g} to {numbers.max().item():g}, too "
            "far apart for their deviation to be a number; give others"
        )
    if std == 0:
        raise InputError(
            f"{where}: all {len(numbers):,} images have the value {mean.item():g}; there is "
            "nothing to learn"
        )
    return ((numbers - mean) / std).float()


def _number(value: Value, key: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{where}: found {value!r} for the sample {key}, which is no finite number; give "
            "numbers, or kind classification"
        )
    return number
