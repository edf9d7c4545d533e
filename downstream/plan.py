"""Which rows a study has, and in which order they are computed."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data.labels import budget_order, natural_order
from downstream.arms import SHORT_ARMS, WITHOUT_ENCODER, Arm, is_from_scratch, is_pretrained
from downstream.config import CurveConfig
from downstream.inputs import StudyInputs
from downstream.results import RowKey

Group = tuple[RowKey, ...]
"""Rows that are computed together: heads of one arm, budget and seed, or a single classifier."""

# Heads of more labels gain nothing from company, and many small groups share out more evenly.
_LABELS_TOGETHER = 3000


def draw_rows(inputs: StudyInputs, config: CurveConfig) -> list[NDArray[np.int64]]:
    """Return for each draw the training rows of the largest budget; smaller ones are its start."""
    labels = inputs.train.labels.numpy()
    if config.sampling == "natural":
        order = partial(natural_order, labels, seed=config.seed)
    else:
        order = partial(budget_order, labels, seed=config.seed, imbalance=config.imbalance)
    return [order(draw=draw)[: max(config.budgets)] for draw in range(config.draws)]


def arms_in_order(names: Iterable[Arm]) -> list[Arm]:
    """Return arms in the order in which figures and tables have them: short names, then others."""
    names = set(names)
    short: list[Arm] = [arm for arm in SHORT_ARMS if arm in names]
    return short + sorted(names - set(short))


def arm_seeds(arm: Arm, draw: int, encoder_seeds: Sequence[int]) -> list[int]:
    """Return the seeds of an arm's rows in one draw.

    Pretrained encoders carry their own; as many random encoders are numbered from 0. From scratch
    each draw has its own weights, so that the spread over draws covers theirs.
    """
    if is_pretrained(arm):
        return list(encoder_seeds)
    if arm.startswith("random_"):
        return list(range(len(encoder_seeds)))
    if is_from_scratch(arm):
        return [draw]
    return [0]  # nothing is drawn


def row_groups(config: CurveConfig, encoder_seeds: Sequence[int]) -> list[Group]:
    """Return every row of a study in the order of work, those computed together in one group.

    Heads come first, small budgets before large ones, several draws at once. Then come the
    classifiers, a whole curve per draw, so that a study cut short has whole curves.
    """
    heads: list[Group] = [
        tuple(
            RowKey(arm, budget, draw, seed)
            for draw in range(config.draws)[first : first + together]
        )
        for budget in config.budgets
        for arm in _head_arms(config)
        for seed in arm_seeds(arm, 0, encoder_seeds)
        for together in [max(1, _LABELS_TOGETHER // budget)]
        for first in range(0, config.draws, together)
    ]
    trained = [arm for arm in arms_in_order(config.arm_names) if not config.fits_head(arm)][::-1]
    classifiers: list[Group] = [
        (RowKey(arm, budget, draw, seed),)
        for draw in range(config.draws)
        for budget in config.budgets
        for arm in trained
        if draw < config.draws_for(arm, budget)
        for seed in arm_seeds(arm, draw, encoder_seeds)
    ]
    return heads + classifiers


def _head_arms(config: CurveConfig) -> list[Arm]:
    """Arms that fit a head, those first that need no encoder."""
    arms = [arm for arm in arms_in_order(config.arm_names) if config.fits_head(arm)]
    return sorted(arms, key=lambda arm: arm not in WITHOUT_ENCODER)


def planned_rows(config: CurveConfig, encoder_seeds: Sequence[int]) -> list[RowKey]:
    """Return every row of a study."""
    return [key for group in row_groups(config, encoder_seeds) for key in group]
