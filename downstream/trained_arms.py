"""Arms that train the encoder: scratch and finetuned, by the same code."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.labels import stratified_folds
from downstream.config import CurveConfig
from downstream.finetune import Fit
from downstream.inputs import StudyInputs, fresh_encoder
from downstream.metrics import classification_scores
from downstream.recipes import FitConfig, Recipe
from downstream.results import Row, RowKey
from models.encoders import Encoder
from models.heads import Classifier
from training.randomness import derive_seed

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrialScore:
    """Held-out scores of one trial over the parts that it was run on.

    Fields:
        steps: where along the schedule the trial would be stopped, by the one-standard-error rule.
        nll, accuracy: held out, at these steps.
        parts: how often a part of the labels was held out.
    """

    trial: int
    steps: int
    nll: float
    accuracy: float
    parts: int


def train_row(
    key: RowKey,
    labelled: NDArray[np.int64],
    inputs: StudyInputs,
    config: CurveConfig,
    accelerator: Accelerator,
) -> Row:
    """Choose the recipe inside the labelled rows, train on all of them, score on the test set.

    Args:
        key: arm scratch or finetuned.
        labelled: the rows of the training set whose labels may be seen.
    """
    began = time.perf_counter()
    bench = _Bench(key, labelled, inputs, config, accelerator)
    recipe, steps, choices = bench.choose()
    fit = bench.fit(recipe, labelled, purpose="final")
    fit.train(stop_at=steps)
    bench.images += (recipe.head_steps + steps) * recipe.batch_size
    logits = fit.predict(inputs.test.images)
    scores = classification_scores(logits.numpy(), inputs.test.labels.numpy())
    return Row(
        **key._asdict(),
        labels_used=len(labelled),
        **scores._asdict(),
        seconds=time.perf_counter() - began,
        choices={**choices, "images": bench.images},
    )


def expected_images(key: RowKey, config: CurveConfig) -> int:
    """Return about how many images one row trains on, repeats and trials included."""
    settings = _settings(key, config)
    images = [r.batch_size * (r.steps_for(key.budget) + r.head_steps) for r in settings.recipes()]
    running = len(images)
    fits = 1
    for _ in range(_held_out_parts(settings, key.budget)[1]):
        if running > 1:
            fits += running
            running = math.ceil(running / 2)
    return fits * sum(images) // len(images)


def _settings(key: RowKey, config: CurveConfig) -> FitConfig:
    return config.scratch if key.arm == "scratch" else config.finetune


def _held_out_parts(settings: FitConfig, num_labels: int) -> tuple[int, int]:
    """Return into how many parts the labels are divided, and how many may be held out in turn."""
    parts = max(2, round(1 / settings.validation_share))
    return parts, min(parts, math.ceil(settings.validation_labels * parts / num_labels))


class _Bench:
    """Where the trials of one row are compared. `images` counts those trained on, repeats too."""

    def __init__(
        self,
        key: RowKey,
        labelled: NDArray[np.int64],
        inputs: StudyInputs,
        config: CurveConfig,
        accelerator: Accelerator,
    ) -> None:
        self.key, self.labelled, self.inputs = key, labelled, inputs
        self.seed = config.seed
        self.settings = _settings(key, config)
        self.accelerator = accelerator
        self.images = 0

    def fit(self, recipe: Recipe, rows: NDArray[np.int64], *, purpose: str) -> Fit:
        """Return a fit that has not begun, with its own copy of the encoder."""
        _, budget, draw, seed = self.key
        # Not by arm: scratch and fine-tuned see the same batches in the same augmentations.
        fit_seed = derive_seed(self.seed, f"fit/{purpose}/{budget}/{seed}", draw)
        return Fit(
            Classifier(
                self._encoder(rows),
                self.inputs.classes,
                grid=recipe.grid,
                dropout=recipe.dropout,
                seed=derive_seed(fit_seed, "head"),
            ),
            recipe,
            self.inputs.train,
            rows,
            steps=recipe.steps_for(budget),
            seed=fit_seed,
            accelerator=self.accelerator,
        )

    def _encoder(self, rows: NDArray[np.int64]) -> Encoder:
        if self.key.arm == "finetuned":
            return self.inputs.encoder_of_seed(self.key.seed).load()
        header = self.inputs.encoders[0].header
        weights = derive_seed(self.seed, "scratch/weights", self.key.seed)
        return fresh_encoder(header, self.inputs.train.images[torch.from_numpy(rows)], seed=weights)

    def choose(self) -> tuple[Recipe, int, dict[str, Any]]:
        """Return the recipe, the steps to take of its schedule, and what to note of the choice."""
        recipes = self.settings.recipes()
        if len(recipes) == 1:
            steps = recipes[0].steps_for(self.key.budget)
            return recipes[0], steps, {"recipe": "fixed", "steps": steps}
        best, tried = self._race(recipes)
        choices = {
            "recipe": {"trial": best.trial, **self.settings.trials[best.trial]},
            "steps": best.steps,
            "cv_accuracy": best.accuracy,
            "cv_nll": best.nll,
            "trials": [asdict(score) for score in tried],
        }
        return recipes[best.trial], best.steps, choices

    def _race(self, recipes: list[Recipe]) -> tuple[TrialScore, list[TrialScore]]:
        """Score all trials on one held-out part, the better half on the next, and so on.

        Held-out labels are few and their accuracy is uncertain, so a trial is stopped before its
        end, and one other than the first is chosen, only for a gain of more than one standard
        error (Breiman et al., 1984): the first trial's whole schedule is the default, and it
        stays in the race.

        Returns:
            The chosen trial, and every trial's last score, best first.
        """
        parts, allowed = _held_out_parts(self.settings, len(self.labelled))
        labels = self.inputs.train.labels.numpy()[self.labelled]
        part_of_row = stratified_folds(
            labels, parts, seed=derive_seed(self.seed, "trials", self.key.draw)
        )
        running = list(range(len(recipes)))
        sums: dict[int, NDArray[np.float64]] = {}  # trial -> [evaluations, (nll, hits)]
        scores: dict[int, TrialScore] = {}
        seen = 0
        for part in range(allowed):
            held_out = part_of_row == part
            seen += int(held_out.sum())
            for trial in running:
                measured = self._measure(recipes[trial], held_out, part)
                steps = [step for step, _ in measured]
                values = np.array([value for _, value in measured])
                sums[trial] = sums[trial] + values if trial in sums else values
                stop = _as_good_as_best(sums[trial][::-1, 1] / seen, seen)
                nll, hits = sums[trial][::-1][stop]
                scores[trial] = TrialScore(
                    trial, steps[::-1][stop], nll / seen, hits / seen, part + 1
                )
            ranked = sorted(running, key=lambda trial: (-scores[trial].accuracy, trial))
            running = sorted({0, *ranked[: math.ceil(len(ranked) / 2)]})
            if running == [0]:
                break
        most = max(score.parts for score in scores.values())
        finalists = [scores[trial] for trial in sorted(scores) if scores[trial].parts == most]
        chosen = _as_good_as_best(np.array([f.accuracy for f in finalists]), seen)
        tried = sorted(scores.values(), key=lambda score: (-score.parts, -score.accuracy))
        return finalists[chosen], tried

    def _measure(
        self, recipe: Recipe, held_out: NDArray[np.bool_], part: int
    ) -> list[tuple[int, tuple[float, int]]]:
        """Return (steps, (summed nll, hits)) on the held-out rows along the schedule."""
        fit = self.fit(recipe, self.labelled[~held_out], purpose=f"part {part}")
        self.images += (recipe.head_steps + fit.steps) * recipe.batch_size
        scored = fit.validate(
            self.inputs.train, self.labelled[held_out], evaluations=self.settings.evaluations
        )
        return [(score.steps, (score.nll, score.hits)) for score in scored]


def _as_good_as_best(accuracies: NDArray[np.float64], count: int) -> int:
    """Return the first index whose accuracy is within one standard error of the best.

    Args:
        accuracies: in order of preference, each a fraction of the same `count` labels.
    """
    best = float(accuracies.max())
    error = math.sqrt(best * (1 - best) / count)
    return int(np.flatnonzero(accuracies >= best - error)[0])
