"""Ways to reuse an encoder side by side: accuracy of each mode at each number of labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.attempts import Attempts
from downstream.inputs import StudyInputs
from downstream.leaks import check_leaks
from downstream.metrics import classification_scores
from downstream.mode_fit import fit_mode, mode_flops
from downstream.mode_rows import ModeKey, ModeRow, planned_keys
from downstream.modes_config import ModesConfig
from downstream.ranks import ALONE, Ranks
from downstream.reuse_check import check_reuse
from downstream.runner import run_rows
from downstream.tasks import chosen_rows
from downstream.train import open_training

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
            check_reuse(config, mode, encoder.path, encoder.header, key=f"modes.{name}")
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
        (encoder,) = self.inputs.encoders
        return mode_flops(self.modes[key.mode], self.config, key.budget, encoder.header)

    def _row(self, key: ModeKey) -> ModeRow:
        began = time.perf_counter()
        config, inputs = self.config, self.inputs
        mode = self.modes[key.mode]
        training = config.training(mode, key.budget, key.draw)
        rows = chosen_rows(self.task, key.budget, draw=key.draw, seed=config.seed, key="budgets")
        attempts = Attempts(
            inputs.encoders[0], inputs.train, inputs.classes, training, self.accelerator
        )
        fitted = fit_mode(mode, attempts, rows, seed=config.seed)
        logits = attempts.logits(fitted.attempt, inputs.test.images, self.tested.rows)
        scores = classification_scores(logits.numpy(), self.tested.labels.numpy())
        return ModeRow(
            *key,
            **scores._asdict(),
            seconds=time.perf_counter() - began,
            taken=fitted.attempt.name,
            decisions=[asdict(decision) for decision in fitted.decisions],
        )
