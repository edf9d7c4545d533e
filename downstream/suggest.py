"""Which images of some shards to label next, as a CSV file.

Shapes: N images, B of them at a time, C channels, H height, W width.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.shards import Sample, expand_shards, iter_samples
from data.store import open_store
from downstream.classify import square_side
from downstream.clusters import Integers
from downstream.features import FeaturesConfig, extract
from downstream.nearest import head_features
from downstream.output_files import check_output_file, create_table
from downstream.similarity import FeaturesOf, fit_similarity
from downstream.typicality import Suggestion, most_typical
from downstream.uncertainty import most_uncertain
from models.artifact import load_encoder
from models.classifier_file import TrainedClassifier, is_classifier, load_classifier
from models.encoders import InputContract, check_images
from models.errors import ModelError
from models.outputs import Classes
from training.errors import InputError
from training.randomness import derive_seed

By = Literal["auto", "typicality", "uncertainty"]

IN_SHARDS = "cls"
"""Instead of a CSV file: images with a .cls beside them are labelled."""
LABELS_FOR_UNCERTAINTY = 20
"""Labels for each class from which on a model's doubts are asked after, unless told otherwise."""


@dataclass(frozen=True)
class Suggested:
    """How many images were suggested, of how many without a label, and by which rule."""

    suggested: int
    unlabelled: int
    labelled: int
    by: Literal["typicality", "uncertainty"]


@dataclass(frozen=True)
class _Asked:
    """An encoder, or a classifier, that images are shown to."""

    contract: InputContract
    features_of: FeaturesOf
    model: TrainedClassifier | None


def suggest(
    path: Path,
    shards: Sequence[str],
    out: Path,
    *,
    count: int,
    labelled: str | None = None,
    by: By = "auto",
    seed: int = 0,
    fit: bool = False,
    overwrite: bool = False,
    allow_external: bool = False,
) -> Suggested:
    """Write `rank,shard,key,why` of `count` images, the most urgent first.

    Args:
        path: an encoder artifact or a trained classifier.
        shards: paths or patterns, as for `expand_shards`; images that cannot be used are left out
            with a warning.
        count: fewer are written where fewer images have no label.
        labelled: which are left out: "cls" (those with a label in the shards), a CSV file with a
            column `key` and where keys repeat a column `shard`, or None.
        by: "typicality" (TypiClust), "uncertainty" (needs a classifier), or "auto": the latter for
            a classifier from 20 labels for each class on.
        seed: of the clusters.
        fit: bring images to the size and the channels that are taken.
    Raises:
        InputError, DataError, ModelError: one line; nothing is written then.
    """
    if count < 1:
        raise InputError(f"--count: found {count}; give 1 or more")
    check_output_file(out, overwrite=overwrite)
    asked = _open(path, allow_external=allow_external)
    model = asked.model
    tells_classes = model is not None and isinstance(model.header.output, Classes)
    if by == "uncertainty" and not tells_classes:
        raise InputError(
            f"--by: uncertainty asks a model of classes, which {path} is not; give a "
            "model.safetensors that is, or --by typicality"
        )
    paths = expand_shards(shards)
    contract = asked.contract
    store = open_store(
        shards,
        on_bad="skip",
        max_bad_share=1.0,
        channels=contract.channels if fit else None,
        size=square_side(contract, path) if fit else None,
    )
    try:
        check_images(contract, *store.images.shape[1:])
    except ModelError as error:
        raise ModelError(f"{path}: {error}; --fit brings images to that") from None
    bad = {(one.shard, one.offset) for one in store.bad}
    samples = [
        (sample.shard, sample.key, sample.label)
        for shard in paths
        for sample in iter_samples(shard)
        if isinstance(sample, Sample) and (shard, sample.offset) not in bad
    ]
    known = _labelled_rows(samples, labelled)
    count = min(count, len(samples) - len(known))
    if count == 0:
        raise InputError(f"--labelled: all {len(samples)} images have a label; nothing to suggest")
    if by == "auto":
        by = "typicality"
        if model is not None and tells_classes:
            seen = max(len(known), model.header.trained_on.images)
            if seen >= LABELS_FOR_UNCERTAINTY * len(model.classes):
                by = "uncertainty"
    rows = fit_similarity(store.images, asked.features_of).all_rows(store.images).numpy()
    generator = np.random.default_rng(derive_seed(seed, "suggest"))
    if by == "uncertainty":
        assert model is not None
        found = most_uncertain(
            rows,
            _probabilities(model, store.images).numpy(),
            count,
            labelled=known,
            classes=model.classes,
            generator=generator,
        )
    else:
        found = most_typical(rows, count, labelled=known, generator=generator)
    _write(out, samples, found)
    return Suggested(len(found), len(samples) - len(known), len(known), by)


def _open(path: Path, *, allow_external: bool) -> _Asked:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if is_classifier(path):
        model = load_classifier(path, allow_external=allow_external).to(device)
        return _Asked(model.header.encoder.input, head_features(model), model)
    encoder = load_encoder(path, allow_external=allow_external).to(device)
    config = FeaturesConfig()
    return _Asked(encoder.input, lambda images: extract(encoder, images.to(device), config), None)


def _probabilities(model: TrainedClassifier, images: Tensor) -> Tensor:
    device = next(model.parameters()).device
    return torch.cat([model.probabilities(part.to(device)).cpu() for part in images.split(500)])


def _labelled_rows(
    samples: Sequence[tuple[Path, str, int | None]], labelled: str | None
) -> Integers:
    if labelled is None:
        return np.zeros(0, np.int64)
    if labelled == IN_SHARDS:
        return np.flatnonzero([label is not None for *_, label in samples])
    rows: dict[str, list[int]] = {}
    for row, (_, key, _) in enumerate(samples):
        rows.setdefault(key, []).append(row)
    found: set[int] = set()
    try:
        with Path(labelled).open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if "key" not in (table.fieldnames or ()):
                raise InputError(
                    f"--labelled: {labelled} has no column key; give a CSV file with one, or cls"
                )
            for entry in table:
                key, shard = entry["key"], entry.get("shard")
                named = [
                    row
                    for row in rows.get(key, ())
                    if not shard or Path(shard).name == samples[row][0].name
                ]
                if not named:
                    raise InputError(
                        f"--labelled: {labelled} line {table.line_num}: found the key {key!r}, "
                        "which no image of the shards has; give the shards that hold it too"
                    )
                found.update(named)
    except OSError as error:
        raise InputError(
            f"--labelled: {labelled}: {error.strerror}; give a CSV file, or cls"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--labelled: {labelled} is not a CSV file ({error})") from error
    return np.array(sorted(found), np.int64)


def _write(
    out: Path, samples: Sequence[tuple[Path, str, int | None]], found: Sequence[Suggestion]
) -> None:
    with create_table(out) as file:
        table = csv.writer(file)
        table.writerow(["rank", "shard", "key", "why"])
        for rank, suggestion in enumerate(found, start=1):
            shard, key, _ = samples[suggestion.row]
            table.writerow([rank, shard, key, suggestion.why])
