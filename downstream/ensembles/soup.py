"""A greedy soup: one classifier whose weights are the mean of several fine-tuned ones.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downstream.ensembles.learner import Ensemble, Learnt, Rows, Validation, held_out_scores
from downstream.finetune import Fit
from downstream.recipes import Recipe

_Weights = dict[str, Tensor]


class GreedySoup(Ensemble):
    """Ingredients share the head's first weights; which are mixed is decided on held-out labels.

    The best ingredient begins; the others follow from the best down, and one stays in the mix where
    that gets no fewer held-out labels right. Those that stay are then learnt from all labels.
    """

    needs_validation = True

    def validate(self, labelled: Rows) -> Validation:
        """Return the ingredients' scores, and which are mixed."""
        learning, held_out = self.learner.split(labelled)
        labels = self.learner.labels(held_out)
        weights, scores = [], []
        for fit in self._ingredients(learning):
            scores.append(held_out_scores(self.learner.ask(fit, held_out), labels))
            weights.append(_copied(fit))

        def accuracy(chosen: Sequence[int]) -> float:
            self._mix(fit, [weights[number] for number in chosen], learning)
            return held_out_scores(self.learner.ask(fit, held_out), labels).accuracy

        order = sorted(
            range(len(scores)), key=lambda number: (-scores[number].accuracy, scores[number].nll)
        )
        mixed, best = order[:1], scores[order[0]].accuracy
        for number in order[1:]:
            if (found := accuracy([*mixed, number])) >= best:
                mixed, best = [*mixed, number], found
        return Validation(scores, {"mixed": sorted(mixed), "held_out_accuracy": best})

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner = self.learner
        members, weights = {}, []
        for number, fit in enumerate(self._ingredients(rows)):
            members[f"ingredient {number}"] = learner.ask(fit, shown)
            if number in choices["mixed"]:
                weights.append(_copied(fit))
        self._mix(fit, weights, rows)
        one = np.mean([learner.one_images(recipe) for recipe in self._recipes()])
        return Learnt(members, learner.ask(fit, shown), 1.0, float(one))

    def _recipes(self) -> list[Recipe]:
        """Return the ingredients' recipes: the trials, again from the first where they are few."""
        trials = self.config.finetune.recipes()
        return [trials[number % len(trials)] for number in range(self.config.members)]

    def _ingredients(self, rows: Rows) -> Iterator[Fit]:
        for number, recipe in enumerate(self._recipes()):
            yield self.learner.train(self.learner.fit(rows, number, recipe, head=0))

    @torch.no_grad()
    def _mix(self, fit: Fit, weights: Sequence[_Weights], rows: Rows) -> None:
        """Give a fit's classifier the mean of some weights, and its batch norms new statistics."""
        mean = {
            name: torch.stack([own[name] for own in weights]).mean(dim=0)
            for name, value in weights[0].items()
            if value.is_floating_point()
        }
        fit.classifier.load_state_dict(weights[0] | mean)
        self.learner.recompute_statistics(fit, rows)


def _copied(fit: Fit) -> _Weights:
    return {name: value.detach().clone() for name, value in fit.classifier.state_dict().items()}
