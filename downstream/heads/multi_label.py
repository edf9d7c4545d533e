"""Logistic regression of several labels at once, one against its absence each.

Shapes: N labelled rows, C labels, A heads, S strengths, M held-out rows.
"""

import torch
from torch import Tensor

from downstream.heads.choosing import Choice
from downstream.heads.linear import fit_linear
from downstream.heads.logistic import LogisticConfig
from downstream.heads.problems import LinearScores, Problems
from models.outputs import MultiLabel

_OUTPUT = MultiLabel()


def fit_multi_label(problems: Problems, config: LogisticConfig) -> list[LinearScores]:
    """Choose the strength of each problem inside its labels, float32 [D, N, C], then fit it on all.

    It is that of the least mean negative log-likelihood of held-out labels.
    """
    return fit_linear(problems, config, BinaryCrossEntropy())


class BinaryCrossEntropy:
    """Binary cross-entropy of sigmoid scores, summed over the labels of a row, as a `HeadLoss`."""

    def __call__(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        truth = labels.T
        losses = (torch.nn.functional.softplus(scores) - truth * scores).sum(dim=1)
        shares = scores.sigmoid()
        return losses, shares - truth, shares - shares.square()

    def choose(self, scores: Tensor, labels: Tensor, weights: Tensor, *, folds: int) -> Choice:
        shares = weights.double() / weights.sum()
        losses = [float((_OUTPUT.losses(own, labels) * shares).sum()) for own in scores]
        best = min(range(len(losses)), key=lambda setting: losses[setting])
        return Choice(best, temperature=1.0, folds=folds, cv_accuracy=None, cv_nll=losses[best])

    def unchosen(self, scores: Tensor, *, setting: int) -> Choice:
        return Choice(setting, temperature=1.0, folds=0, cv_accuracy=None, cv_nll=None)
