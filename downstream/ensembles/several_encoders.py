"""Ensembles of several encoders: features under one head, or the mean of their predictions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from downstream.ensembles.learner import Ensemble, Learnt, Rows, averaged

_SMALLEST = 1e-12


class AveragedHeads(Ensemble):
    """A head on the frozen features of each encoder, whose probabilities are averaged."""

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        members = self._heads(self._blocks(rows, shown), rows)
        return self._learnt(members, averaged(members), rows)

    def _blocks(self, rows: Rows, shown: Rows | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Return by encoder the features of rows and of what is to be predicted, of one scale.

        Each encoder's are divided by the root mean square deviation over the labelled images, so
        that the smallest divisor of a feature is relative to its own encoder's.
        """
        blocks = {}
        for name, features in self.learner.features.items():
            learning = features.labelled(rows)
            asked = torch.from_numpy(features.test) if shown is None else features.labelled(shown)
            scale = learning.var(dim=0, correction=0).mean().sqrt().clamp_min(_SMALLEST)
            blocks[name] = (learning / scale, asked / scale)
        return blocks

    def _heads(self, blocks: Mapping[str, tuple[Tensor, Tensor]], rows: Rows) -> dict[str, Tensor]:
        return {
            name: self.learner.head_logits(learning, rows, asked)
            for name, (learning, asked) in blocks.items()
        }

    def _learnt(self, members: Mapping[str, Tensor], ensemble: Tensor, rows: Rows) -> Learnt:
        """Return predictions, with the cost of a pass of every encoder."""
        self.learner.images += len(members) * len(rows)
        return Learnt(members, ensemble, len(members), len(rows))


class ConcatenatedFeatures(AveragedHeads):
    """One head on the frozen features of all encoders; its members have one encoder each."""

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        blocks = self._blocks(rows, shown)
        learning, asked = (torch.cat(parts, dim=1) for parts in zip(*blocks.values(), strict=True))
        ensemble = self.learner.head_logits(learning, rows, asked)
        return self._learnt(self._heads(blocks, rows), ensemble, rows)


class AveragedFinetuned(Ensemble):
    """A classifier fine-tuned from each encoder, whose probabilities are averaged."""

    def learn(self, rows: Rows, shown: Rows | None, choices: Mapping[str, Any]) -> Learnt:
        """See `Ensemble.learn`."""
        learner, recipe = self.learner, self.config.finetune.recipe
        members = {
            name: learner.ask(learner.train(learner.fit(rows, 0, recipe, encoder=name)), shown)
            for name in learner.inputs
        }
        return Learnt(members, averaged(members), len(members), learner.one_images(recipe))
