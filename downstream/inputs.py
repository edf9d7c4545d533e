"""What a study works on: labelled images and encoders, opened and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.labels import check_budget, noisy_labels
from data.store import ResidentStore
from downstream.arms import EQUAL_COMPUTE, ArmConfig
from downstream.config import CurveConfig, StudyDataConfig
from downstream.costs import pretraining_images
from downstream.features import FeaturesConfig, check_stages
from downstream.metrics import row_scores
from downstream.reuse_check import check_reuse
from models.artifact import (
    ArtifactHeader,
    artifact_hash,
    check_external,
    load_encoder,
    read_artifact,
)
from models.dropout import dropout_layers
from models.encoders import Encoder, build_encoder, check_images, outline
from models.errors import ModelError
from training.errors import InputError

_LSUV_IMAGES = 256


@dataclass(frozen=True)
class LabelledImages:
    """A split: images uint8 [N, C, H, W], memory-mapped, and labels int64 [N] in [0, classes)."""

    images: Tensor
    labels: Tensor
    fingerprint: str
    dataset: str | None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder artifact: where it is, what it says, and the seed that its rows carry."""

    path: Path
    header: ArtifactHeader
    sha256: str
    seed: int

    def load(self) -> Encoder:
        """Return a fresh copy of the encoder on the CPU, in eval mode."""
        return load_encoder(self.path, allow_external=True)  # asked where inputs are opened


@dataclass(frozen=True)
class StudyInputs:
    """Everything that rows are computed from, besides the config.

    Fields:
        pretraining: the images of `data.pretraining`, which only the leak check and the audit read.
        copies: bool [M], which test images have a copy among those learned from; None where that
            was not asked.
        remove_copies: whether these are left out of all scores.
    """

    train: LabelledImages
    test: LabelledImages
    pretraining: ResidentStore | None
    class_names: tuple[str, ...]
    encoders: tuple[PretrainedEncoder, ...]
    copies: NDArray[np.bool_] | None = None
    remove_copies: bool = False

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def class_counts(self, rows: NDArray[np.int64]) -> list[int]:
        """Return how many of some training rows are of each class."""
        labels = self.train.labels[torch.from_numpy(rows)]
        return torch.bincount(labels, minlength=self.classes).tolist()

    def scored_rows(self) -> NDArray[np.int64]:
        """Return the rows of the test images that scores are of, ascending."""
        if self.copies is None or not self.remove_copies:
            return np.arange(len(self.test))
        return np.flatnonzero(~self.copies)

    def scores(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Return every score of a row, as `row_scores`, of logits [M, K] of all test images."""
        labels = self.test.labels.numpy()
        return row_scores(logits, labels, self.copies, remove_copies=self.remove_copies)

    def encoder_of_seed(self, seed: int) -> PretrainedEncoder:
        """Return the encoder whose rows carry a seed."""
        return next(encoder for encoder in self.encoders if encoder.seed == seed)


def open_inputs(config: CurveConfig) -> StudyInputs:
    """Open images and encoders and check that they, the budgets and the stages fit together.

    Raises:
        DataError, ModelError, InputError: one line, naming the key or the file.
    """
    encoders = open_encoders(
        config.encoders(), config.features, allow_external=config.allow_external
    )
    _check_mc_samples(config, encoders[0])
    _check_arms(config, encoders[0])
    train_store = config.data.open(config.data.train)
    test_store = config.data.open(config.data.test)
    for key, store in (("data.train", train_store), ("data.test", test_store)):
        check_fit(encoders, key, store)
    class_names = names_of_classes(train_store, test_store)
    train, test = labelled("train", train_store), labelled("test", test_store)
    if config.label_noise > 0:
        labels = noisy_labels(
            train.labels.numpy(), config.label_noise, len(class_names), seed=config.seed
        )
        train = replace(train, labels=torch.from_numpy(labels))
    for budget in config.budgets:
        check_budget(train.labels.numpy(), budget, len(class_names))
    pretraining = _open_pretraining(config.data, encoders)
    return StudyInputs(train, test, pretraining, class_names, encoders)


def open_encoders(
    names: Sequence[str], features: FeaturesConfig, *, allow_external: bool
) -> tuple[PretrainedEncoder, ...]:
    """Open artifacts of one spec and check that they have the stages that features are made of.

    Raises:
        ModelError, InputError: one line, naming the file or the key.
    """
    paths = [Path(name) for name in names]
    headers = [read_artifact(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        check_external(path, header, allow_external=allow_external)
        if (header.spec, header.input) != (headers[0].spec, headers[0].input):
            raise InputError(
                f"encoder: {path} has another spec or other inputs than {paths[0]}; "
                "several encoders are pretraining seeds of one method on the same images"
            )
    hashes = [artifact_hash(path) for path in paths]
    if len(set(hashes)) < len(hashes):
        raise InputError(f"encoder: two of {[str(p) for p in paths]} are the same; name each once")
    stages = [stage.name for stage in headers[0].stages]
    check_stages(features, stages, paths[0], key="features.stages")
    seeds = _row_seeds([header.seed for header in headers])
    return tuple(
        PretrainedEncoder(*parts) for parts in zip(paths, headers, hashes, seeds, strict=True)
    )


def check_fit(encoders: Sequence[PretrainedEncoder], key: str, store: ResidentStore) -> None:
    """Check that encoders take the images of a store, which is that of a key.

    Raises:
        ModelError: naming encoder and key.
    """
    for encoder in encoders:
        try:
            check_images(encoder.header.input, *store.images.shape[1:])
        except ModelError as error:
            raise ModelError(f"{encoder.path}, {key}: {error}") from None


def fresh_encoder(header: ArtifactHeader, images: Tensor, *, seed: int) -> Encoder:
    """Return the encoder that an artifact describes, its weights drawn from `seed`.

    Args:
        images: uint8 [N, C, H, W]; the initializer `lsuv` looks at the first ones.
    """
    sample = images[:_LSUV_IMAGES].float().div_(255)
    return build_encoder(header.spec, header.input, seed=seed, images=sample)


def _check_mc_samples(config: CurveConfig, encoder: PretrainedEncoder) -> None:
    """Check that there is dropout wherever a recipe of an arm averages over it.

    Raises:
        InputError: naming the recipe.
    """
    if dropout_layers(outline(encoder.header.spec, encoder.header.input)):
        return
    for arm, key, settings in (
        ("scratch", "scratch", config.scratch),
        ("finetuned", "finetune", config.finetune),
    ):
        for trial, recipe in enumerate(settings.recipes() if arm in config.arm_names else ()):
            if recipe.samples_dropout and recipe.dropout == 0:
                raise InputError(
                    f"{key}.recipe.mc_samples: found {recipe.mc_samples} in trial {trial}, but "
                    f"neither its recipe nor {encoder.path} has dropout to sample; set "
                    f"{key}.recipe.dropout above 0 or mc_samples to 0"
                )


def _check_arms(config: CurveConfig, encoder: PretrainedEncoder) -> None:
    """Check that the encoder has what arms need of it.

    Raises:
        InputError: naming the arm.
    """
    if EQUAL_COMPUTE in config.arm_names:
        pretraining_images(encoder.header)
    names = [stage.name for stage in encoder.header.stages]
    for number, arm in enumerate(config.arms):
        if isinstance(arm, ArmConfig):
            check_stages(
                config.features_of(arm.name), names, encoder.path, key=f"arms.{number}.stages"
            )
            if not arm.fits_head:
                training = config.training_of(arm.name)
                check_reuse(
                    training, training.mode, encoder.path, encoder.header, key=f"arms.{number}.mode"
                )


def _row_seeds(seeds: Sequence[int | None]) -> list[int]:
    """Return the pretraining seeds where they tell the encoders apart, else their positions."""
    known = [seed for seed in seeds if seed is not None]
    return known if len(set(known)) == len(seeds) else list(range(len(seeds)))


def _open_pretraining(
    config: StudyDataConfig, encoders: Sequence[PretrainedEncoder]
) -> ResidentStore | None:
    if config.pretraining is None:
        return None
    store = config.open(config.pretraining)
    if store.fingerprint not in {encoder.header.trained_on.fingerprint for encoder in encoders}:
        raise InputError(
            f"data.pretraining: {config.pretraining} is not what {encoders[0].path} was trained on "
            f"({encoders[0].header.trained_on.images} images of other content); give the shards of "
            "that run, or null"
        )
    return store


def labelled(split: str, store: ResidentStore) -> LabelledImages:
    """Return a split, named as below `data`, with all its labels.

    Raises:
        InputError: some image has none.
    """
    if store.labels is None:
        raise InputError(
            f"data.{split}: {store.labels_missing} of {len(store)} samples have no label (.cls); "
            "every one has to be labeled: pack a set with labels"
        )
    name = store.info.name if store.info else None
    return LabelledImages(store.images, store.labels, store.fingerprint, name)


def names_of_classes(train: ResidentStore, test: ResidentStore | None) -> tuple[str, ...]:
    """Return the names of the classes, which are numbers where dataset.json gives none.

    Raises:
        InputError: training and test set have other classes.
    """
    train_labels = labelled("train", train).labels
    own = train.classes or [str(label) for label in range(int(train_labels.max()) + 1)]
    if test is None:
        return tuple(own)
    test_labels = labelled("test", test).labels
    if train.classes and test.classes and train.classes != test.classes:
        raise InputError(
            f"data.test: has the classes {listed(test.classes)}, data.train has "
            f"{listed(train.classes)}; give splits of one set"
        )
    known = torch.unique(train_labels).tolist()
    unknown = [label for label in torch.unique(test_labels).tolist() if label not in set(known)]
    if unknown:
        raise InputError(
            f"data.test: has samples of class {unknown[0]}, data.train has none; "
            "training and test set need the same classes"
        )
    return tuple(train.classes or test.classes or own)


def listed(names: Sequence[str]) -> str:
    """The first names of many, for a message."""
    shown = ", ".join(names[:3])
    return f"{shown} ... ({len(names)} in all)" if len(names) > 3 else shown
