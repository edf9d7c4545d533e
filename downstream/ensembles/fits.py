"""Ensembles of classifiers that are trained one by one: by seeds, and by configurations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.costs import forward_flops
from downstream.ensembles.learner import (
    Ensemble,
    HeldOut,
    Learner,
    Learnt,
    Reuse,
    Rows,
    Validation,
    averaged,
)
from downstream.finetune import Scored
from downstream.recipes import Recipe
from downstream.trials import race_trials
from training.randomness import derive_seed


class Seeds(Ensemble):
    """One recipe several times: other weights of the head, order and augmentation.

    From scratch the encoder's weights are others, too. Lakshminarayanan et al. 2017, "Simple and
    Scalable Predictive Uncertainty Estimation using Deep Ensembles".
    """

    def __init__(self, learner: Learner, reuse: Reuse) -> None:
        super().__init__(learner)
        self._reuse = reuse
        recipes: dict[Reuse, Recipe] = {
            "finetuned": self.config.finetune.recipe,
            "scratch": self.config.scratch,
            "frozen": self.config.frozen,
        }
        self._recipe = recipes[reuse]

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, count = self.learner, self.config.members
        members, head_flops = {}, 0
        for number in range(count):
            fit = learner.train(learner.fit(rows, number, self._recipe, reuse=self._reuse))
            members[f"seed {number}"] = learner.ask(fit, shown)
            head_flops = 2 * sum(p.numel() for p in fit.classifier.head.parameters() if p.dim() > 1)
        cost: float = count
        if self._reuse == "frozen":  # the heads share a pass of the encoder
            encoder_flops = forward_flops(learner.study.encoders[0].header)
            cost = (encoder_flops + count * head_flops) / (encoder_flops + head_flops)
        return Learnt(members, averaged(members), cost, learner.one_images(self._recipe))


class TopConfigurations(Ensemble):
    """The trials that were best on labels held out, each learnt from all of them."""

    needs_validation = True

    def validate(self, labelled: Rows) -> Validation:
        """Return the best trials of a race, and the steps after which each is stopped."""
        settings, learner = self.config.finetune, self.learner
        recipes = settings.recipes()

        def measure(trial: int, held_out: NDArray[np.bool_], part: int) -> list[Scored]:
            fit = learner.fit(labelled[~held_out], trial, recipes[trial])
            learner.count(fit)
            return fit.validate(
                learner.study.train, labelled[held_out], evaluations=settings.evaluations
            )

        _, tried = race_trials(
            settings,
            learner.labels(labelled).numpy(),
            seed=derive_seed(self.config.seed, "ensemble/trials", learner.key.draw),
            measure=measure,
        )
        top = tried[: self.config.members]
        return Validation(
            [HeldOut(score.accuracy, score.nll) for score in top],
            {"trials": [{"trial": score.trial, "steps": score.steps} for score in top]},
        )

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, recipes = self.learner, self.config.finetune.recipes()
        members = {}
        for chosen in choices["trials"]:
            trial, steps = chosen["trial"], chosen["steps"]
            fit = learner.train(learner.fit(rows, trial, recipes[trial]), steps)
            members[f"trial {trial}"] = learner.ask(fit, shown)
        one = np.mean([learner.one_images(recipes[own["trial"]]) for own in choices["trials"]])
        return Learnt(members, averaged(members), len(members), float(one))
