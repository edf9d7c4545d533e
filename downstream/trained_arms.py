"""Arms that train the encoder: scratch and finetuned, by the same code."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.spread import evenly_spread
from downstream.arms import EQUAL_COMPUTE
from downstream.config import CurveConfig
from downstream.costs import pretraining_images
from downstream.finetune import Fit, Scored
from downstream.inference import row_inference
from downstream.inputs import StudyInputs, fresh_encoder
from downstream.recipes import FitConfig, Recipe
from downstream.results import Row, RowKey
from downstream.trials import held_out_parts, race_trials
from models.artifact import ArtifactHeader
from models.encoders import Encoder
from models.heads import Classifier
from training.randomness import derive_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

_SCORED_ALONG = 1000


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
    along = _train(fit, steps, inputs, config.scored_along)
    bench.images += (recipe.head_steps + steps) * recipe.batch_size
    logits = fit.predict(inputs.test.images)
    scores = inputs.scores(logits.numpy())
    return Row(
        **key._asdict(),
        labels_used=len(labelled),
        **scores,
        seconds=time.perf_counter() - began,
        choices={**choices, "images": bench.images},
        inference=row_inference(key.arm, config, inputs),
        class_counts=inputs.class_counts(labelled),
        along=along,
    )


def _train(fit: Fit, steps: int, inputs: StudyInputs, times: int) -> list[tuple[int, float]] | None:
    """Train up to a step; return steps and accuracy at halvings of it, if asked to."""
    if not times:
        fit.train(stop_at=steps)
        return None
    scored, test = inputs.scored_rows(), inputs.test
    rows = scored[evenly_spread(len(scored), _SCORED_ALONG)]
    labels = test.labels[torch.from_numpy(rows)]
    points = []
    for step in fit.along({math.ceil(steps / 2**halvings) for halvings in range(times)}):
        hits = fit.predict(test.images, rows).argmax(dim=1) == labels
        points.append((fit.recipe.head_steps + step, hits.double().mean().item()))
        if step == steps:
            break
    return points


def expected_images(key: RowKey, config: CurveConfig, header: ArtifactHeader) -> int:
    """Return about how many images one row trains on, repeats and trials included."""
    settings = _settings(key, config, header)
    images = [r.batch_size * (r.steps_for(key.budget) + r.head_steps) for r in settings.recipes()]
    running = len(images)
    fits = 1
    for _ in range(held_out_parts(settings, key.budget)[1]):
        if running > 1:
            fits += running
            running = math.ceil(running / 2)
    return fits * sum(images) // len(images)


def _settings(key: RowKey, config: CurveConfig, header: ArtifactHeader) -> FitConfig:
    settings = config.fit_of(key.arm)
    if key.arm != EQUAL_COMPUTE:
        return settings
    # Too long to be tried several times: the recipe that was best beforehand.
    recipe = settings.recipes()[0]
    longer = recipe.steps_for(key.budget) + pretraining_images(header) // recipe.batch_size
    return settings.model_copy(
        update={"recipe": recipe.model_copy(update={"steps": longer}), "trials": ({},)}
    )


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
        self.settings = _settings(key, config, inputs.encoders[0].header)
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
        best, tried = race_trials(
            self.settings,
            self.inputs.train.labels.numpy()[self.labelled],
            seed=derive_seed(self.seed, "trials", self.key.draw),
            measure=partial(self._measure, recipes),
        )
        choices = {
            "recipe": {"trial": best.trial, **self.settings.trials[best.trial]},
            "steps": best.steps,
            "cv_accuracy": best.accuracy,
            "cv_nll": best.nll,
            "trials": [asdict(score) for score in tried],
        }
        return recipes[best.trial], best.steps, choices

    def _measure(
        self, recipes: list[Recipe], trial: int, held_out: NDArray[np.bool_], part: int
    ) -> list[Scored]:
        recipe = recipes[trial]
        fit = self.fit(recipe, self.labelled[~held_out], purpose=f"part {part}")
        self.images += (recipe.head_steps + fit.steps) * recipe.batch_size
        return fit.validate(
            self.inputs.train, self.labelled[held_out], evaluations=self.settings.evaluations
        )
