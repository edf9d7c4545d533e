"""Ways to reuse an encoder side by side: accuracy of each mode at each number of labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.attempts import Attempts
from downstream.costs import TRAINING_PASSES, forward_flops
from downstream.decisions import Chosen, Decider, Decision
from downstream.inputs import StudyInputs
from downstream.leaks import check_leaks
from downstream.metrics import classification_scores
from downstream.mode_rows import ModeKey, ModeRow, planned_keys
from downstream.modes import Auto, DepthSearch, FixMatch, Frozen, Gradual, MeanTeacher
from downstream.modes_config import ModesConfig
from downstream.ranks import ALONE, Ranks
from downstream.runner import run_rows
from downstream.tasks import chosen_rows
from downstream.train import check_reuse, open_training

if TYPE_CHECKING:
    from accelerate import Accelerator

SUMMARY = "summary.json"
PICTURE = "modes.svg"

ModeGroup = tuple[ModeKey, ...]


def run_modes(config: ModesConfig, *, overwrite: bool, ranks: Ranks = ALONE) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        config: resolved.
        ranks: the processes that share the rows.
    Returns:
        The study's folder, or None as `run_rows`.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    make = partial(ModeBench, config)
    return run_rows(
        config, make, ModeRow, overwrite=overwrite, exports=(SUMMARY, PICTURE), ranks=ranks
    )


class ModeBench:
    """Computes rows, each of them a training as `train` does it.

    Raises:
        InputError, DataError, ModelError: as `open_training`, or a budget is too small or large.
    """

    def __init__(self, config: ModesConfig, accelerator: Accelerator) -> None:
        assert config.modes is not None  # it is resolved
        self.config, self.modes, self.accelerator = config, config.modes, accelerator
        encoder, self.task = open_training(config)
        for name, mode in config.modes.items():
            check_reuse(config, mode, encoder, key=f"modes.{name}")
        train, test = self.task.train.images, self.task.test
        assert test is not None  # the config asks for it
        self.inputs = StudyInputs(train, test.images, None, self.task.names, (encoder,))
        self.tested = test
        for budget in config.budgets:
            chosen_rows(self.task, budget, draw=0, seed=config.seed, key="budgets")

    def groups(self) -> Sequence[ModeGroup]:
        """Return every row, each for itself."""
        return [(key,) for key in planned_keys(self.config)]

    def title(self) -> str:
        """Return in words which rows there are."""
        return f"{len(planned_keys(self.config))} rows"

    def provenance(self) -> dict[str, Any]:
        """Return what a continued study must share with its beginning, fit for JSON."""
        inputs = self.inputs
        return {
            "seed": self.config.seed,
            "encoder": inputs.encoders[0].sha256,
            "data": {
                name: {"fingerprint": split.fingerprint, "images": len(split)}
                for name, split in (("train", inputs.train), ("test", inputs.test))
            },
            "leaks": check_leaks(inputs).model_dump(mode="json"),
        }

    def prepare(self, groups: Sequence[ModeGroup]) -> None:
        """Rows share nothing that is computed."""

    def compute(self, group: ModeGroup) -> list[ModeRow]:
        """Return the rows of a group."""
        return [self._row(key) for key in group]

    def flops(self, group: ModeGroup) -> int:
        """Return about how many floating-point operations a group takes."""
        return sum(map(self._flops, group))

    def _flops(self, key: ModeKey) -> int:
        config, (encoder,) = self.config, self.inputs.encoders
        mode = self.modes[key.mode]
        recipe = config.finetune
        images = recipe.batch_size * recipe.steps_for(key.budget)
        if isinstance(mode, Auto | Gradual):
            images *= 1 + config.validation.held_out_folds(key.budget)
        elif isinstance(mode, FixMatch | MeanTeacher):
            images = config.unfreeze.batch_size * mode.steps * (1 + 2 * mode.ratio)
        elif isinstance(mode, Frozen | DepthSearch):
            images = key.budget
        return TRAINING_PASSES * images * forward_flops(encoder.header)

    def _row(self, key: ModeKey) -> ModeRow:
        began = time.perf_counter()
        config, inputs = self.config, self.inputs
        mode = self.modes[key.mode]
        training = config.training(mode, key.budget, key.draw)
        rows = chosen_rows(self.task, key.budget, draw=key.draw, seed=config.seed, key="budgets")
        attempts = Attempts(
            inputs.encoders[0], inputs.train, inputs.classes, training, self.accelerator
        )
        decisions: list[Decision] = []
        decider = Decider(attempts, rows, config.validation, seed=config.seed, say=decisions.append)
        if isinstance(mode, Auto | Gradual | DepthSearch):
            chosen = decider.decide(mode, key.budget)
        else:  # a training would score it inside the labels only to calibrate it
            chosen = Chosen(mode, None, None, None)
        learnt = decider.learn(chosen)
        logits = attempts.logits(learnt, inputs.test.images, self.tested.rows)
        scores = classification_scores(logits.numpy(), self.tested.labels.numpy())
        return ModeRow(
            *key,
            **scores._asdict(),
            seconds=time.perf_counter() - began,
            taken=learnt.name,
            decisions=[asdict(decision) for decision in decisions],
        )
