"""Rows of a comparison of ensembles: one for each kind, budget and draw."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from downstream.ensembles.config import Kind


class EnsembleKey(NamedTuple):
    """What a row is about."""

    kind: Kind
    budget: int
    draw: int


@dataclass(frozen=True)
class EnsembleRow:
    """One ensemble, its members, and their scores on the test set.

    Fields:
        labels_used: labels that training and choosing have seen.
        accuracy, ece: fractions in [0, 1]; nll: nats. Of the ensemble.
        members: of each `name`, `accuracy`, `nll`, `ece`, and, unless there is one member alone,
            `held_out_accuracy` and `held_out_nll`: its own on labels held out inside the budget.
        best_by_validation: place in `members` of the one with the best held-out accuracy.
        best_in_hindsight: of the one with the best accuracy on the test set.
        training_cost: images trained on to make the ensemble, relative to one member.
        prediction_cost: operations of a prediction, relative to one member.
        seconds: of everything, the runs that only compare members included.
        choices: what was chosen inside the labels.
    """

    kind: Kind
    budget: int
    labels_used: int
    draw: int
    accuracy: float
    nll: float
    ece: float
    members: list[dict[str, Any]]
    best_by_validation: int
    best_in_hindsight: int
    training_cost: float
    prediction_cost: float
    seconds: float
    choices: dict[str, Any]

    @property
    def key(self) -> EnsembleKey:
        return EnsembleKey(self.kind, self.budget, self.draw)
