"""A classifier by one way to reuse an encoder: decided inside labels, learnt from all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from downstream.attempts import Attempt, Attempts
from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.decisions import Chosen, Decider, Decision
from downstream.modes import Auto, DepthSearch, FixMatch, Frozen, Gradual, MeanTeacher, ModeConfig
from downstream.train_config import ReuseConfig
from models.artifact import ArtifactHeader


@dataclass(frozen=True)
class ModeFit:
    """An attempt that has learnt from all labels, and the comparisons that led there."""

    attempt: Attempt
    decisions: list[Decision]


def fit_mode(
    mode: ModeConfig, attempts: Attempts, rows: NDArray[np.int64], *, seed: int
) -> ModeFit:
    """Decide what a mode leaves open inside the labels of some rows, and learn from all of them."""
    decisions: list[Decision] = []
    validation = attempts.config.validation
    decider = Decider(attempts, rows, validation, seed=seed, say=decisions.append)
    if isinstance(mode, Auto | Gradual | DepthSearch):
        chosen = decider.decide(mode, len(rows))
    else:  # a training would score it inside the labels only to calibrate it
        chosen = Chosen(mode, None, None, None)
    return ModeFit(decider.learn(chosen), decisions)


def mode_flops(mode: ModeConfig, config: ReuseConfig, labels: int, header: ArtifactHeader) -> int:
    """Return about how many floating-point operations deciding and learning take."""
    recipe = config.finetune
    images = recipe.batch_size * recipe.steps_for(labels)
    if isinstance(mode, Auto | Gradual):
        images *= 1 + config.validation.held_out_folds(labels)
    elif isinstance(mode, FixMatch | MeanTeacher):
        images = config.unfreeze.batch_size * mode.steps * (1 + 2 * mode.ratio)
    elif isinstance(mode, Frozen | DepthSearch):
        images = labels
    return TRAINING_PASSES * images * forward_flops(header)
