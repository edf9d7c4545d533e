"""Arms of the user's own that train stages: a mode as in `python -m downstream train`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from downstream.arms import is_pretrained
from downstream.attempts import Attempts
from downstream.config import CurveConfig
from downstream.inference import row_inference
from downstream.inputs import StudyInputs
from downstream.mode_fit import fit_mode
from downstream.results import Row, RowKey
from training.randomness import derive_seed

if TYPE_CHECKING:
    from accelerate import Accelerator


def mode_row(
    key: RowKey,
    labelled: NDArray[np.int64],
    inputs: StudyInputs,
    config: CurveConfig,
    accelerator: Accelerator,
) -> Row:
    """Decide inside the labelled rows, learn from all of them, score on the test set.

    Args:
        key: of an arm that trains stages.
        labelled: the rows of the training set whose labels may be seen.
    """
    began = time.perf_counter()
    training = config.training_of(key.arm)
    encoder = inputs.encoders[0]
    if is_pretrained(key.arm):
        encoder = inputs.encoder_of_seed(key.seed)
    attempts = Attempts(encoder, inputs.train, inputs.classes, training, accelerator)
    # Not by arm: all see the same order of images.
    seed = derive_seed(config.seed, f"mode/{key.budget}/{key.seed}", key.draw)
    fitted = fit_mode(training.mode, attempts, labelled, seed=seed)
    # The test set is read here and nowhere before: all choices are made.
    logits = attempts.logits(fitted.attempt, inputs.test.images)
    scores = inputs.scores(logits.numpy())
    return Row(
        **key._asdict(),
        labels_used=len(labelled),
        **scores,
        seconds=time.perf_counter() - began,
        choices={
            "taken": fitted.attempt.name,
            "decisions": [asdict(decision) for decision in fitted.decisions],
        },
        inference=row_inference(key.arm, config, inputs),
        class_counts=inputs.class_counts(labelled),
    )
