"""One preset trained for some seconds, with a whole schedule, and what its encoder is worth."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from data.errors import DataError
from data.reading import Store
from data.spread import evenly_spread
from models.encoders import Encoder
from models.errors import ModelError
from pretrain.config import DataConfig, PretrainConfig
from pretrain.cross_validated_probe import CrossValidatedProbe
from pretrain.label_free_scores import LabelFreeScores, label_free_scores
from pretrain.learning_set import LearningSet, learning_set
from pretrain.objective import Objective
from pretrain.run import make_trainer
from training.errors import InputError, NonFiniteLossError
from training.loop import Trainer
from training.signals import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

_SCORED_IMAGES = 500
_TIMED_STEPS = 3
LEAST_STEPS = 5
"""That a run takes however little time there is."""
_LONGEST = 1.5
"""A run that takes so many times its seconds, since its steps grow slower, is ended."""
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Gap:
    """How far a run's accuracy is behind another's on the same images, a fraction, and how sure.

    Fields:
        error: its standard error.
    """

    value: float
    error: float

    @property
    def measurable(self) -> bool:
        """Whether it is behind by more than two standard errors."""
        return self.value > _STANDARD_ERRORS * self.error


class ShortRun(BaseModel):
    """How a preset fared in one round.

    Fields:
        round: counted from 0.
        steps: taken; images_per_second: while they were.
        measuring_seconds: for the scores; seconds: in all.
        full_seconds: that the whole preset would take at this rate.
        problem: why there is nothing to rank; None: there is.
        hits: of each labelled image 1 where a head that had not seen it told it right, else 0;
            None without labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    round: int
    steps: int = 0
    measuring_seconds: float = 0.0
    images_per_second: float = 0.0
    seconds: float = 0.0
    full_seconds: float = 0.0
    problem: str | None = None
    rank: float | None = None
    decay: float | None = None
    alignment: float | None = None
    uniformity: float | None = None
    hits: str | None = None

    @property
    def scores(self) -> LabelFreeScores:
        """The scores without labels of a run that has no problem."""
        values = (self.rank, self.decay, self.alignment, self.uniformity)
        return LabelFreeScores(*(float("nan") if value is None else value for value in values))

    def right(self) -> np.ndarray:
        """Return which labelled images were told right, bool [N]."""
        return np.array([hit == "1" for hit in self.hits or ""])

    @property
    def accuracy(self) -> float:
        """Share of the labelled images that were told right, 0 without labels."""
        return float(self.right().mean()) if self.hits else 0.0

    def behind(self, other: ShortRun) -> Gap:
        """Return how far it is behind another run with the same labels, two at least."""
        gaps = other.right().astype(float) - self.right()
        return Gap(float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps))))


class Stores:
    """Images by how they are read, each opened once: decoding them is no run's time."""

    def __init__(self) -> None:
        self._opened: dict[str, Store] = {}

    def open(self, config: DataConfig) -> Store:
        """Return the images of a config.

        Raises:
            DataError: as `open_images`.
        """
        key = config.model_dump_json()
        if key not in self._opened:
            self._opened[key] = config.open_images()
        return self._opened[key]


def short_run(
    name: str,
    number: int,
    config: PretrainConfig,
    stores: Stores,
    probe: CrossValidatedProbe | None,
    accelerator: Accelerator,
    *,
    before: ShortRun | None,
    measuring: float,
    seconds: float,
    stop: StopRequest,
) -> ShortRun | None:
    """Train a preset for about so many seconds, measuring included.

    It takes as many steps as its run before, or its first ones, say there is time for, five at
    least, and its schedule ends with them.

    Args:
        name, number: of the preset and the round.
        before: its run in an earlier round.
        measuring: seconds to leave for that where there is none.
    Returns:
        The run, which says so where the preset does not fit or diverges; None where a signal came.
    """
    begin = time.perf_counter()
    try:
        store = stores.open(config.data)
        found = _trained(
            config,
            store,
            probe,
            accelerator,
            before=before,
            measuring=measuring,
            begin=begin,
            seconds=seconds,
            stop=stop,
        )
    except (InputError, DataError, ModelError, NonFiniteLossError) as error:
        found = {"problem": str(error)}
    if found is None:
        return None
    taken = time.perf_counter() - begin
    return ShortRun.model_validate({"preset": name, "round": number, "seconds": taken, **found})


def warm_up(
    config: PretrainConfig,
    stores: Stores,
    probe: CrossValidatedProbe | None,
    accelerator: Accelerator,
) -> float:
    """Take a step of a preset and measure, so that what that costs first is no run's time.

    Returns:
        About the seconds that measuring takes; 0 where the preset does not fit.
    """
    with suppress(InputError, DataError, ModelError, NonFiniteLossError):  # its short run says so
        store = stores.open(config.data)
        learned = learning_set(config, store)
        trainer = make_trainer(config, store, accelerator, learned=learned)
        trainer.train_step(0)
        with trainer.exportable() as trainable:
            _measured(trainable, learned, probe)
            began = time.perf_counter()
            _measured(trainable, learned, probe)
            return time.perf_counter() - began
    return 0.0


def _trained(
    config: PretrainConfig,
    store: Store,
    probe: CrossValidatedProbe | None,
    accelerator: Accelerator,
    *,
    before: ShortRun | None,
    measuring: float,
    begin: float,
    seconds: float,
    stop: StopRequest,
) -> dict[str, object] | None:
    learned = learning_set(config, store)
    if learned.targets is not None:
        raise InputError(
            f"objective.kind: found {config.objective.kind!r}, which learns from labels; compare "
            "it by python -m downstream study"
        )
    if probe is not None and probe.shape != tuple(store.images.shape[1:]):
        ours, theirs = ("x".join(map(str, s)) for s in (store.images.shape[1:], probe.shape))
        raise InputError(
            f"--labels: its images are {theirs} (channels x height x width), those to learn from "
            f"{ours}; give shards of such images, or data.channels and data.size"
        )
    trainer = make_trainer(config, store, accelerator, learned=learned)
    total = trainer.total_steps
    if before is None:
        each = _seconds_of_a_step(trainer)
    else:
        each, measuring = config.batch_size / before.images_per_second, before.measuring_seconds
    left = seconds - (time.perf_counter() - begin) - measuring
    steps = min(total, max(LEAST_STEPS, int(left / each)))
    trainer = make_trainer(config, store, accelerator, learned=learned, total_steps=steps)
    began = _finished(trainer)
    taken = 0
    while taken < steps:
        trainer.train_step(taken, measure=False)
        taken += 1
        if stop.requested:
            return None
        if taken >= LEAST_STEPS and time.perf_counter() - begin > _LONGEST * seconds:
            break
    each = (_finished(trainer) - began) / taken
    with trainer.exportable() as trainable:
        measuring = time.perf_counter()
        found = _measured(trainable, learned, probe)
        measuring = time.perf_counter() - measuring
    return {
        "steps": taken,
        "measuring_seconds": measuring,
        "images_per_second": config.batch_size / each,
        "full_seconds": total * each,
        **found,
    }


def _seconds_of_a_step(trainer: Trainer) -> float:
    """Return how long a step takes, after the first one, which is slower."""
    steps = min(_TIMED_STEPS, trainer.total_steps - 1)
    trainer.train_step(0, measure=False)
    began = _finished(trainer)
    for step in range(1, 1 + steps):
        trainer.train_step(step, measure=False)
    return (_finished(trainer) - began) / max(1, steps)


def _finished(trainer: Trainer) -> float:
    """Return the time at which the device has done what it was given."""
    if trainer.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


@torch.no_grad()
def _measured(
    trainable: torch.nn.Module, learned: LearningSet, probe: CrossValidatedProbe | None
) -> dict[str, object]:
    assert isinstance(trainable, Objective)
    trainable.eval()
    encoder: Encoder = trainable.exported()
    rows = learned.trained[evenly_spread(len(learned.trained), _SCORED_IMAGES)]
    seen: Tensor = learned.store.images[torch.from_numpy(rows)]
    scores = label_free_scores(encoder, seen)
    hits = None
    if probe is not None:
        hits = "".join("1" if hit else "0" for hit in probe.hits(encoder))
    trainable.train()
    if not scores.finite:
        raise InputError("its features are not finite")
    return {
        "rank": scores.rank,
        "decay": scores.decay,
        "alignment": scores.alignment,
        "uniformity": scores.uniformity,
        "hits": hits,
    }
