"""Arms that fit a head on fixed features, of an encoder or of the images themselves.

Shapes: D draws, N labelled rows, M test rows, F features, C classes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downstream.arms import WITHOUT_ENCODER, Arm, is_pretrained
from downstream.config import CurveConfig
from downstream.feature_cache import FeatureCache, features_folder
from downstream.features import calibrate_batch_norm, feature_count
from downstream.heads.build import head_flops, heads_of
from downstream.heads.diffusion import Pool
from downstream.heads.neighbour_graph import NeighbourGraph, OnGraph, open_graph
from downstream.heads.problems import FittedHead, all_logits
from downstream.image_arms import image_features
from downstream.inference import row_inference
from downstream.inputs import StudyInputs, fresh_encoder
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
        origin: what tells them from other features of the same images, fit for JSON.
        copies: [R, F] each, of changed copies of the training rows.
    """

    rows: NDArray[np.int64]
    train: NDArray[np.float32]
    test: NDArray[np.float32]
    origin: Any
    copies: tuple[NDArray[np.float32], ...] = ()

    def labelled(self, rows: NDArray[np.int64]) -> Tensor:
        """Features [N, F] of some rows of the training set, then of each of their copies."""
        places = np.searchsorted(self.rows, rows)
        parts = [torch.from_numpy(own[places]) for own in (self.train, *self.copies)]
        return torch.cat(parts)


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
    if arm in WITHOUT_ENCODER:
        learnt = image_features(arm, inputs.train.images[torch.from_numpy(rows)]).numpy()
        scored = image_features(arm, inputs.test.images).numpy()
        return FixedFeatures(rows, learnt, scored, "hog" if arm == "hog_svm" else "pixels")
    if is_pretrained(arm):
        pretrained = inputs.encoder_of_seed(seed)
        make_encoder, name = pretrained.load, pretrained.sha256
    else:
        header = inputs.encoders[0].header
        make_encoder = partial(random_encoder, inputs, config, seed)
        name = f"random {header.spec.model_dump_json()} {header.input.model_dump_json()} "
        name += f"seed {config.seed}/{seed} calibrated on {inputs.train.fingerprint}"
    folder = features_folder(config.runs_dir)
    wanted = config.features_of(arm)
    cache = FeatureCache(folder, name, make_encoder, wanted, inputs.train, device)
    test = cache.features(inputs.test, np.arange(len(inputs.test)))
    copies = range(config.features.copies)
    changed = tuple(cache.features(inputs.train, rows, copy=number) for number in copies)
    train = cache.features(inputs.train, rows)
    return FixedFeatures(rows, train, test, cache.origin, changed)


def image_graph(
    arm: Arm, features: FixedFeatures, inputs: StudyInputs, config: CurveConfig
) -> NeighbourGraph | None:
    """Return the graph that an arm's head learns on, kept on disk; None where it has none.

    Args:
        features: those of all training rows.
    """
    head = config.head_of(arm)
    if not isinstance(head, OnGraph):
        return None
    transductive = head.inference == "transductive"
    return open_graph(
        features_folder(config.runs_dir),
        [features.origin, inputs.train.fingerprint, transductive and inputs.test.fingerprint],
        features.train,
        features.test if transductive else None,
        head.graph,
        std_floor=config.features.std_floor,
    )


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


def head_rows(
    arm: Arm,
    budget: int,
    seed: int,
    draws: Mapping[int, NDArray[np.int64]],
    features: FixedFeatures,
    inputs: StudyInputs,
    config: CurveConfig,
    device: torch.device,
) -> list[Row]:
    """Choose, fit and score the heads of some draws of a budget.

    Args:
        draws: for each draw the rows of its `budget` labels [N], in the order of the budget.
    """
    began = time.perf_counter()
    heads: list[FittedHead] = []
    learnt = budget * (1 + len(features.copies))
    graph = image_graph(arm, features, inputs, config)
    bytes_per_draw = 4 * learnt * max(learnt, features.train.shape[1])
    at_once = max(1, _BYTES_AT_ONCE // bytes_per_draw)
    numbers = list(draws)
    for first in range(0, len(numbers), at_once):
        some = {draw: draws[draw] for draw in numbers[first : first + at_once]}
        heads += _fit_draws(arm, some, features, graph, inputs, config, device)
    # The test set is read here and nowhere before: all choices are made.
    logits = all_logits(heads, torch.from_numpy(features.test)).numpy()
    seconds = (time.perf_counter() - began) / len(draws)
    rows = []
    for (draw, labelled), head, own in zip(draws.items(), heads, logits, strict=True):
        rows.append(
            Row(
                arm=arm,
                budget=budget,
                labels_used=len(labelled),
                draw=draw,
                seed=seed,
                **inputs.scores(own),
                seconds=seconds,
                choices=head.choices,
                inference=row_inference(arm, config, inputs),
                class_counts=inputs.class_counts(labelled),
            )
        )
    return rows


def arm_flops(key: RowKey, inputs: StudyInputs, config: CurveConfig) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    shapes = {stage.name: stage.shape for stage in inputs.encoders[0].header.stages}
    features = feature_count(shapes, config.features_of(key.arm))
    learnt = key.budget * (1 + config.features.copies)
    if key.arm in WITHOUT_ENCODER:
        features, learnt = image_features(key.arm, inputs.train.images[:1]).shape[1], key.budget
    images = len(inputs.train) + len(inputs.test)
    return head_flops(config.head_of(key.arm), learnt, features, inputs.classes, images)


def _fit_draws(
    arm: Arm,
    draws: Mapping[int, NDArray[np.int64]],
    features: FixedFeatures,
    graph: NeighbourGraph | None,
    inputs: StudyInputs,
    config: CurveConfig,
    device: torch.device,
) -> Sequence[FittedHead]:
    rows = torch.from_numpy(np.stack(list(draws.values())))
    labels = inputs.train.labels[rows]
    return heads_of(
        torch.stack([features.labelled(own) for own in draws.values()]).to(device),
        labels.to(device),
        config.head_of(arm),
        classes=inputs.classes,
        std_floor=config.features.std_floor,
        fold_seeds=[derive_seed(config.seed, "head/folds", draw) for draw in draws],
        copies=len(features.copies),
        pool=None if graph is None else Pool(graph, rows),
    )
