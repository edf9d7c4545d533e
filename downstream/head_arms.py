"""Arms that fit a linear head on fixed features: frozen, random_frozen and raw_logistic.

Shapes: D draws, N labelled rows, M test rows, F features, C classes.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.labels import stratified_folds
from downstream.config import Arm, CurveConfig
from downstream.features import cached_features, calibrate_batch_norm, feature_count
from downstream.inputs import LabelledImages, StudyInputs, fresh_encoder
from downstream.linear_head import HeadChoice, HeadConfig, choose_heads, fit_heads, standardize
from downstream.metrics import classification_scores
from downstream.results import Row, RowKey
from models.encoders import Encoder
from training.randomness import derive_seed

CALIBRATION_IMAGES = 2000
_BYTES_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class FixedFeatures:
    """Features float32 of the training rows that any draw needs, and of all test rows.

    Fields:
        rows: ascending rows of the training set [R]; train: [R, F]; test: [M, F].
    """

    rows: NDArray[np.int64]
    train: NDArray[np.float32]
    test: NDArray[np.float32]

    def labelled(self, rows: NDArray[np.int64]) -> Tensor:
        """Features [N, F] of some rows of the training set."""
        return torch.from_numpy(self.train[np.searchsorted(self.rows, rows)])


def fixed_features(
    arm: Arm,
    seed: int,
    inputs: StudyInputs,
    config: CurveConfig,
    rows: NDArray[np.int64],
    device: torch.device,
) -> FixedFeatures:
    """Return the features that the heads of an arm see.

    Args:
        seed: that of the arm's rows: which pretrained encoder, or which fresh weights.
        rows: ascending rows of the training set.
    """
    if arm == "raw_logistic":
        return FixedFeatures(rows, _pixels(inputs.train, rows), _pixels(inputs.test, None))
    if arm == "frozen":
        pretrained = inputs.encoder_of_seed(seed)
        make_encoder, name = pretrained.load, pretrained.sha256
    else:
        header = inputs.encoders[0].header
        make_encoder = partial(random_encoder, inputs, config, seed)
        name = f"random {header.spec.model_dump_json()} {header.input.model_dump_json()} "
        name += f"seed {config.seed}/{seed} calibrated on {inputs.train.fingerprint}"
    parts = []
    for split, wanted in ((inputs.train, rows), (inputs.test, np.arange(len(inputs.test)))):
        identity = {"encoder": name, "images": split.fingerprint}
        folder = Path(config.runs_dir, ".cache", "features")
        parts.append(
            cached_features(
                folder, identity, make_encoder, split.images, wanted, config.features, device
            )
        )
    return FixedFeatures(rows, *parts)


def random_encoder(inputs: StudyInputs, config: CurveConfig, seed: int) -> Encoder:
    """Return the pretrained encoders' architecture with fresh weights, as strong as it can be.

    Its batch norms get the statistics of unlabelled training images, spread over the whole set.
    """
    header = inputs.encoders[0].header
    weights = derive_seed(config.seed, f"random_frozen/weights/{seed}")
    stride = max(1, len(inputs.train) // CALIBRATION_IMAGES)
    images = inputs.train.images[::stride][:CALIBRATION_IMAGES]
    encoder = fresh_encoder(header, images, seed=weights)
    calibrate_batch_norm(encoder, images)
    return encoder


def _pixels(split: LabelledImages, rows: NDArray[np.int64] | None) -> NDArray[np.float32]:
    images = split.images if rows is None else split.images[torch.from_numpy(rows)]
    return images.flatten(1).float().div_(255).numpy()


def head_rows(
    arm: Arm,
    budget: int,
    seed: int,
    draws: Sequence[NDArray[np.int64]],
    features: FixedFeatures,
    inputs: StudyInputs,
    config: CurveConfig,
    device: torch.device,
) -> list[Row]:
    """Choose, fit and score the heads of all draws of a budget.

    Args:
        draws: for each draw the rows of its `budget` labels [N], in the order of the budget.
    """
    began = time.perf_counter()
    heads: list[tuple[HeadChoice, Tensor, Tensor]] = []
    bytes_per_draw = 4 * budget * max(budget, features.train.shape[1])
    at_once = max(1, _BYTES_AT_ONCE // bytes_per_draw)
    for first in range(0, len(draws), at_once):
        numbered = dict(enumerate(draws[first : first + at_once], start=first))
        heads += _fit_draws(numbered, features, inputs, config, device)
    # The test set is read here and nowhere before: all choices are made.
    weights = torch.cat([weight for _, weight, _ in heads], dim=1)  # [F, D * C]
    biases = torch.cat([bias for _, _, bias in heads])
    logits = torch.from_numpy(features.test) @ weights + biases
    seconds = (time.perf_counter() - began) / len(draws)
    rows = []
    for draw, (choice, _, _) in enumerate(heads):
        own = logits[:, draw * inputs.classes : (draw + 1) * inputs.classes].numpy()
        rows.append(
            Row(
                arm=arm,
                budget=budget,
                labels_used=len(draws[draw]),
                draw=draw,
                seed=seed,
                **classification_scores(own, inputs.test.labels.numpy())._asdict(),
                seconds=seconds,
                choices=asdict(choice),
            )
        )
    return rows


def head_flops(key: RowKey, inputs: StudyInputs, config: CurveConfig) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    head = config.head
    shapes = {stage.name: stage.shape for stage in inputs.encoders[0].header.stages}
    features = feature_count(shapes, config.features)
    if key.arm == "raw_logistic":
        features = inputs.train.images[0].numel()
    rotated = key.budget if 2 * key.budget <= features else features
    held_out = min(head.folds, math.ceil(head.validation_labels * head.folds / key.budget))
    heads = held_out * len(head.strengths) + 1
    return 4 * head.steps * heads * inputs.classes * key.budget * rotated


def _fit_draws(
    draws: Mapping[int, NDArray[np.int64]],
    features: FixedFeatures,
    inputs: StudyInputs,
    config: CurveConfig,
    device: torch.device,
) -> list[tuple[HeadChoice, Tensor, Tensor]]:
    """Return for each draw its choice, weight [F, C] and bias [C], on the CPU."""
    standardized = [
        standardize(features.labelled(rows).to(device), floor=config.features.std_floor)
        for rows in draws.values()
    ]
    rows = torch.stack([part for part, _ in standardized])
    labels = {draw: inputs.train.labels[torch.from_numpy(r)] for draw, r in draws.items()}
    folds = _folds(labels, config.head, seed=config.seed)
    stacked = torch.stack(list(labels.values())).to(device)
    if folds is None:
        choices = [_without_validation(config.head)] * len(draws)
    else:
        choices = choose_heads(rows, stacked, folds.to(device), config.head, classes=inputs.classes)
    fitted = fit_heads(rows, stacked, choices, config.head, classes=inputs.classes)
    heads = []
    for choice, (_, standardizer), head in zip(choices, standardized, fitted, strict=True):
        weight, bias = standardizer.on_raw_features(*head)
        heads.append((choice, weight.cpu(), bias.cpu()))
    return heads


def _folds(labels: Mapping[int, Tensor], config: HeadConfig, *, seed: int) -> Tensor | None:
    """Return the fold [D, N] in which each row is held out, -1 for never.

    None where hardly any class has a second label to hold out.
    """
    counts = [torch.unique(own, return_counts=True)[1] for own in labels.values()]
    fewest = min(int(count.min()) for count in counts)
    num_labels = min(int(count.sum()) for count in counts)
    if fewest < 2 and num_labels < 2 * max(len(count) for count in counts):
        return None
    folds = min(config.folds, max(2, fewest))
    held_out = min(folds, math.ceil(config.validation_labels * folds / num_labels))
    by_draw = [
        stratified_folds(own.numpy(), folds, seed=derive_seed(seed, "head/folds", draw))
        for draw, own in labels.items()
    ]
    fold = torch.from_numpy(np.stack(by_draw))
    return torch.where(fold < held_out, fold, -1)


def _without_validation(config: HeadConfig) -> HeadChoice:
    """The strongest penalty: what few labels want where none can be held out."""
    return HeadChoice(config.strengths[-1], config.steps, folds=0, cv_accuracy=None, cv_nll=None)
