"""Members of ensembles: classifiers and heads that learn from labels of one budget and draw.

Shapes: N labelled rows, M images to predict, F features, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.labels import stratified_folds
from downstream.ensembles.config import EnsembleConfig
from downstream.ensembles.rows import EnsembleKey
from downstream.features import calibrate_batch_norm
from downstream.finetune import Fit
from downstream.head_arms import FixedFeatures
from downstream.heads.build import heads_of
from downstream.inputs import StudyInputs, fresh_encoder
from downstream.recipes import Recipe
from downstream.trials import held_out_parts
from models.heads import Classifier
from models.monte_carlo import mean_log_probabilities
from training.randomness import derive_seed
from training.schedules import CosineSchedule, ScheduleConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Reuse = Literal["finetuned", "frozen", "scratch"]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Learnt:
    """What members and their ensemble make of some images.

    Fields:
        members: name -> logits [M, C].
        ensemble: logits [M, C], or logarithms of probabilities.
        prediction_cost: operations of a prediction, relative to one member.
        one_images: images that one member is trained on, repeats counted.
    """

    members: Mapping[str, Tensor]
    ensemble: Tensor
    prediction_cost: float
    one_images: float


class HeldOut(NamedTuple):
    """A member's scores on labels held out inside the budget: a fraction, and a mean in nats."""

    accuracy: float
    nll: float


@dataclass(frozen=True)
class Validation:
    """What labels held out inside the budget say.

    Fields:
        members: in the order in which `Ensemble.learn` gives them; none where there is one alone.
        choices: what the ensemble is to be made of, fit for JSON.
    """

    members: list[HeldOut] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)


class Learner:
    """Trains classifiers and heads for one row.

    Attributes:
        images: those trained on so far, repeats counted.
    """

    def __init__(
        self,
        key: EnsembleKey,
        config: EnsembleConfig,
        inputs: Mapping[str, StudyInputs],
        features: Mapping[str, FixedFeatures],
        accelerator: Accelerator,
    ) -> None:
        """Take what rows are computed from.

        Args:
            inputs: by label of the encoder; they differ in that alone.
            features: likewise; none for kinds that need none.
        """
        self.key, self.config, self.accelerator = key, config, accelerator
        self.inputs, self.features = inputs, features
        self.first = next(iter(inputs))
        self.images = 0

    @property
    def study(self) -> StudyInputs:
        """The inputs of the first encoder."""
        return self.inputs[self.first]

    def labels(self, rows: Rows) -> Tensor:
        """Return the labels [N] of training rows."""
        return self.study.train.labels[torch.from_numpy(rows)]

    def split(self, labelled: Rows) -> tuple[Rows, Rows]:
        """Return the rows to learn from and those held out, equal for every kind."""
        parts, _ = held_out_parts(self.config.finetune, len(labelled))
        seed = derive_seed(self.config.seed, f"ensemble/held out/{self.key.budget}", self.key.draw)
        held_out = stratified_folds(self.labels(labelled).numpy(), parts, seed=seed) == 0
        return labelled[~held_out], labelled[held_out]

    def fit(
        self,
        rows: Rows,
        member: int,
        recipe: Recipe,
        *,
        reuse: Reuse = "finetuned",
        encoder: str | None = None,
        head: int | None = None,
        length: float = 1.0,
        schedule: ScheduleConfig = CosineSchedule(),
    ) -> Fit:
        """Return a fit that has not begun.

        Args:
            member: members of different numbers differ in all that is drawn.
            encoder: label of the one to begin with; None: the first.
            head: number of the member whose first head weights are taken; None: its own.
            length: steps relative to the recipe's.
        """
        config, (_, budget, draw) = self.config, self.key
        seed, head_seed = (
            derive_seed(config.seed, f"ensemble/{budget}/{number}", draw)
            for number in (member, member if head is None else head)
        )
        inputs = self.inputs[encoder or self.first]
        images = inputs.train.images[torch.from_numpy(rows)]
        begin = inputs.encoders[0].load()
        if reuse == "scratch":
            header = inputs.encoders[0].header
            begin = fresh_encoder(header, images, seed=derive_seed(seed, "weights"))
        stages = config.features.stages or begin.stage_names
        return Fit(
            Classifier(
                begin,
                inputs.classes,
                stages=stages if reuse == "frozen" else None,
                grid=recipe.grid,
                dropout=recipe.dropout,
                seed=derive_seed(head_seed, "head"),
            ),
            recipe,
            inputs.train,
            rows,
            steps=max(1, round(length * recipe.steps_for(budget))),
            seed=seed,
            accelerator=self.accelerator,
            train_encoder=reuse != "frozen",
            schedule=schedule,
        )

    def one_images(self, recipe: Recipe) -> int:
        """Return how many images a classifier by a recipe is trained on, repeats counted."""
        return (recipe.head_steps + recipe.steps_for(self.key.budget)) * recipe.batch_size

    def count(self, fit: Fit, steps: int | None = None) -> None:
        """Count the images of a fit that takes some or all of its steps."""
        taken = fit.steps if steps is None else steps
        self.images += (fit.recipe.head_steps + taken) * fit.recipe.batch_size

    def train(self, fit: Fit, steps: int | None = None) -> Fit:
        """Train, count, and return a fit."""
        self.count(fit, steps)
        fit.train(stop_at=steps)
        return fit

    def ask(self, fit: Fit, shown: Rows | None) -> Tensor:
        """Return logits [M, C] of training rows or, where there are none, of the test images."""
        if shown is None:
            return fit.predict(self.study.test.images)
        return fit.predict(self.study.train.images, shown)

    def recompute_statistics(self, fit: Fit, rows: Rows) -> None:
        """Give a fit's batch norms the statistics of training rows, as averaged weights need."""
        images = self.study.train.images[torch.from_numpy(rows)].to(self.accelerator.device)
        calibrate_batch_norm(fit.classifier.encoder, images)

    def head_logits(self, features: Tensor, rows: Rows, shown: Tensor) -> Tensor:
        """Return what the config's head, fitted on features [N, F] of rows, makes of [M, F]."""
        seed = derive_seed(self.config.seed, f"ensemble/folds/{self.key.budget}", self.key.draw)
        device = self.accelerator.device
        (head,) = heads_of(
            features[None].to(device),
            self.labels(rows)[None].to(device),
            self.config.head,
            classes=self.study.classes,
            std_floor=self.config.features.std_floor,
            fold_seeds=[seed],
        )
        return head.logits(shown.to(device)).cpu()


class Ensemble(ABC):
    """A way to make an ensemble.

    Attributes:
        needs_validation: it is made of what held-out labels say; else they only tell its members
            apart.
        single: it has one member alone.
    """

    needs_validation = False
    single = False

    def __init__(self, learner: Learner) -> None:
        self.learner, self.config = learner, learner.config

    def validate(self, labelled: Rows) -> Validation:
        """Return what a part of the labels says, held out while the rest is learnt from."""
        if self.single:
            return Validation()
        learning, held_out = self.learner.split(labelled)
        learnt = self.learn(learning, held_out, {})
        labels = self.learner.labels(held_out)
        return Validation([held_out_scores(own, labels) for own in learnt.members.values()])

    @abstractmethod
    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """Learn from training rows and predict others or, where `shown` is None, the test images.

        Args:
            choices: those of `validate`.
        """


def held_out_scores(logits: Tensor, labels: Tensor) -> HeldOut:
    """Score logits [M, C] on labels [M]."""
    accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    return HeldOut(accuracy, float(F.cross_entropy(logits, labels)))


def averaged(members: Mapping[str, Tensor]) -> Tensor:
    """Return the logarithms [M, C] of the members' mean probabilities."""
    return mean_log_probabilities(torch.stack(list(members.values())))
