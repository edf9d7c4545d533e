"""How alike the task of pretraining and a new one are: what each stage is worth to the new one.

All is measured inside N labels, before any transfer.

Shapes: N labelled images, D stages, F features of a stage, C channels, H height, W width.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from data.labels import budget_order, check_budget, stratified_folds
from data.spread import evenly_spread
from data.store import ReadingConfig
from downstream.features import FeaturesConfig, calibrate_batch_norm, extract, images_at_once
from downstream.heads.problems import Problems
from downstream.heads.ridge import RidgeConfig, fit_ridge
from downstream.inputs import check_fit, fresh_encoder, labelled, open_encoders
from downstream.source_labels import source_labels
from downstream.transferability import h_score, linear_cka, log_me
from models.encoders import Encoder
from models.heads import pooled_width
from training.errors import InputError
from training.randomness import derive_seed

_FOLDS = 5
# With two, a head is fitted on one of its own class and two of each other, and never takes its own.
_OF_A_CLASS = 3
_RESAMPLES = 2000
_CALIBRATION_IMAGES = 1000
_STD_FLOOR = 0.1
_STANDARD_ERRORS = 2.0


class SimilarityConfig(ReadingConfig):
    """How labelled images are read, and what is measured on them."""

    count: PositiveInt = Field(500, description="labels, class-balanced, that all is made of")
    grid: PositiveInt = Field(4, description="side of the raster to which each stage is pooled")
    seed: int = Field(0, ge=0, description="of which labels, of the random twin and of resampling")
    allow_external: bool = Field(
        False, description="import and run the code that an encoder of kind external names"
    )


class StageSimilarity(BaseModel):
    """What one stage is worth to the new task.

    Fields:
        log_me, h_score: of its features; the higher the better.
        cka_labels: how alike its features and the classes are; cka_random: its features and
            those of the same stage with fresh weights. 1: equal; about 0: nothing in common.
        accuracy: of a ridge head on all stages up to this one, on labelled images that it has not
            seen; random: the same on the encoder with fresh weights.
        gain, gain_error: accuracy - random, and its standard error over images.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    log_me: float
    h_score: float
    cka_labels: float
    cka_random: float
    accuracy: float
    random: float
    gain: float
    gain_error: float


class TaskSimilarity(BaseModel):
    """What is to be reused, and how certain that is.

    Fields:
        labels: how many were used; they count.
        stages: lowest first.
        reuse: how many stages gave the best accuracy; of equals the most.
        certainty: share of resamples of the images in which that number is the best too.
        not_worse: numbers of stages that these labels do not tell from the best.
        votes: which stage each measure of single stages puts first.
        source_labels: in words, where pretraining learned from labels.
    """

    model_config = ConfigDict(frozen=True)

    encoder: str
    labels: int
    stages: tuple[StageSimilarity, ...]
    reuse: int
    certainty: float
    not_worse: tuple[int, ...]
    votes: dict[str, str]
    source_labels: str | None

    @property
    def verdict(self) -> str:
        """What to do, in sentences."""
        best = self.stages[self.reuse - 1]
        others = [number for number in self.not_worse if number != self.reuse]
        text = (
            f"Reuse about {self.reuse} of {len(self.stages)} stages, up to {best.stage}: the same "
            f"number is best in {100 * self.certainty:.0f} % of resamples of the "
            f"{self.labels:,} images"
        )
        if others:
            listed = ", ".join(map(str, others))
            text += f"; {listed} cannot be told from it with so few labels"
        gain = f"{100 * best.gain:.1f} ± {100 * best.gain_error:.1f} points (standard error)"
        if best.gain > _STANDARD_ERRORS * best.gain_error:
            text += f". They are {gain} better than with fresh weights: the tasks are alike."
        elif best.gain < -_STANDARD_ERRORS * best.gain_error:
            text += f". They are {gain} against fresh weights, which do better: do not reuse them."
        else:
            text += (
                f". They are {gain} against fresh weights, which is no measurable difference: what "
                "was learned helps this task little, or the labels are too few to show it."
            )
        if self.source_labels is not None:
            text += f" Pretraining learned from {self.source_labels}."
        return f"{text} The {self.labels:,} labels that chose count among those of the transfer."


@dataclass(frozen=True)
class _Measured:
    """Features of N images by stage, [N, F] each, and which a head gets right by depth, [D, N]."""

    features: Mapping[str, Tensor]
    hits: NDArray[np.bool_]


def task_similarity(encoder: Path, shards: list[str], config: SimilarityConfig) -> TaskSimilarity:
    """Measure what each stage of an encoder is worth to a labelled set.

    Raises:
        InputError, DataError, ModelError: one line.
    """
    features = FeaturesConfig(grid=config.grid)
    (pretrained,) = open_encoders([str(encoder)], features, allow_external=config.allow_external)
    store = config.open(shards)
    check_fit([pretrained], "SHARDS", store)
    images = labelled("shards", store)
    numbers = images.labels.numpy()
    number = len(np.unique(numbers))
    if number < 2:
        raise InputError("SHARDS: all samples have the same label; give two classes or more")
    if config.count < _OF_A_CLASS * number:
        raise InputError(
            f"count: found {config.count:,} labels for {number:,} classes, too few to score a head "
            f"on some of them; give {_OF_A_CLASS * number:,} or more"
        )
    check_budget(numbers, config.count, number, key="count")
    rows = budget_order(numbers, draw=0, seed=config.seed)[: config.count]
    _, classes = np.unique(numbers[rows], return_inverse=True)
    shown, labels = images.images[torch.from_numpy(rows)], torch.from_numpy(classes)
    folds = torch.from_numpy(stratified_folds(classes, _FOLDS, seed=config.seed))
    spread = torch.from_numpy(evenly_spread(len(images), _CALIBRATION_IMAGES))
    seed = derive_seed(config.seed, "similarity/random twin")
    twin = fresh_encoder(pretrained.header, images.images[spread], seed=seed)
    calibrate_batch_norm(twin, images.images[spread])
    own, random = (
        _measure(one, shown, labels, folds, features) for one in (pretrained.load(), twin)
    )
    targets = F.one_hot(labels).double()
    stages = []
    for depth, (name, raw) in enumerate(own.features.items()):
        gaps = own.hits[depth].astype(float) - random.hits[depth]
        rows_of_stage = _standardized(raw)
        stages.append(
            StageSimilarity(
                stage=name,
                log_me=log_me(rows_of_stage, targets - targets.mean(0)),
                h_score=h_score(rows_of_stage, labels),
                cka_labels=linear_cka(rows_of_stage, targets),
                cka_random=linear_cka(rows_of_stage, _standardized(random.features[name])),
                accuracy=float(own.hits[depth].mean()),
                random=float(random.hits[depth].mean()),
                gain=float(gaps.mean()),
                gain_error=_standard_error(gaps),
            )
        )
    reuse, certainty, not_worse = _best_depth(own.hits, seed=config.seed)
    told = source_labels(pretrained.header.trained_on.model_dump())
    return TaskSimilarity(
        encoder=str(encoder),
        labels=len(labels),
        stages=tuple(stages),
        reuse=reuse,
        certainty=certainty,
        not_worse=not_worse,
        votes={
            measure: max(stages, key=lambda one: _or_least(getattr(one, measure))).stage
            for measure in ("log_me", "h_score", "cka_labels")
        },
        source_labels=None if told is None else str(told),
    )


def _or_least(value: float) -> float:
    """Of a stage whose features never vary a measure is NaN, which is no best one."""
    return -math.inf if math.isnan(value) else value


def similarity_table(found: TaskSimilarity) -> str:
    """Return the stages as lines of text."""
    lines = [
        [
            "stages reused",
            "held-out accuracy, %",
            "fresh weights, %",
            "gain ± standard error",
            "LogME",
            "H-score",
            "CKA with labels",
            "CKA with fresh weights",
        ]
    ]
    for number, one in enumerate(found.stages, start=1):
        lines.append(
            [
                f"{number}, up to {one.stage}",
                f"{100 * one.accuracy:.1f}",
                f"{100 * one.random:.1f}",
                f"{100 * one.gain:+.1f} ± {100 * one.gain_error:.1f}",
                f"{one.log_me:.3f}",
                f"{one.h_score:.2f}",
                f"{one.cka_labels:.3f}",
                f"{one.cka_random:.3f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    votes = ", ".join(f"{stage} by {measure}" for measure, stage in found.votes.items())
    return "\n".join([*table, f"best single stage: {votes}"])


def _measure(
    encoder: Encoder, images: Tensor, labels: Tensor, folds: Tensor, config: FeaturesConfig
) -> _Measured:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device)
    parts = images.split(images_at_once(encoder))
    whole = torch.cat([extract(encoder, part.to(device), config).cpu() for part in parts])
    widths = [pooled_width(shape, config.grid) for shape in encoder.output_shapes.values()]
    by_stage = dict(zip(encoder.stage_names, whole.split(widths, dim=1), strict=True))
    ends = np.cumsum(widths).tolist()
    hits = [_hits(whole[:, :end], labels, folds) for end in ends]
    return _Measured(by_stage, np.stack(hits))


def _hits(features: Tensor, labels: Tensor, folds: Tensor) -> NDArray[np.bool_]:
    """Return which images a head gets right that is fitted on the other folds, bool [N]."""
    classes = int(labels.max()) + 1
    right = torch.zeros(len(labels), dtype=torch.bool)
    for fold in range(_FOLDS):
        out = folds == fold
        problems = Problems(
            features[~out][None], labels[~out][None], None, classes, std_floor=_STD_FLOOR
        )
        (head,) = fit_ridge(problems, RidgeConfig())
        right[out] = head.logits(features[out]).argmax(1) == labels[out]
    return right.numpy()


def _best_depth(hits: NDArray[np.bool_], *, seed: int) -> tuple[int, float, tuple[int, ...]]:
    """Return the best depth of hits [D, N], how often it is best, and those not worse, from 1."""
    depths, count = hits.shape
    best = _argmax_deepest(hits.mean(1)[None])[0]
    generator = np.random.default_rng(derive_seed(seed, "similarity/resamples"))
    weights = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    share = float((_argmax_deepest(weights @ hits.T.astype(float)) == best).mean())
    not_worse = []
    for depth in range(depths):
        gaps = hits[best].astype(float) - hits[depth]
        if gaps.mean() <= _STANDARD_ERRORS * _standard_error(gaps):
            not_worse.append(depth + 1)
    return int(best) + 1, share, tuple(not_worse)


def _argmax_deepest(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the place of each row's largest value, the last of equals."""
    return scores.shape[1] - 1 - np.argmax(scores[:, ::-1], axis=1)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _standardized(features: Tensor) -> Tensor:
    """Return features [N, F] of mean 0 and deviation 1; those that hardly vary stay small."""
    rows = features.double()
    std = rows.std(0, correction=0)
    floor = _STD_FLOOR * std.square().mean().sqrt()
    return (rows - rows.mean(0)) / std.clamp_min(floor).clamp_min(1e-12)


def as_json(found: TaskSimilarity) -> dict[str, Any]:
    """Return it fit for JSON, with the verdict."""
    # NaN is no JSON; by this way it is null.
    return {**json.loads(found.model_dump_json()), "verdict": found.verdict}
