"""Multinomial logistic regression, solved to convergence: strength by cross-validation, one refit.

Shapes: N labelled rows, C classes, S strengths, A heads, M held-out rows.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.choosing import Choice
from downstream.heads.linear import SolvedConfig, Strengths, fit_linear
from downstream.heads.problems import LinearScores, Problems


class LogisticConfig(SolvedConfig):
    """A linear softmax head, solved to convergence by L-BFGS.

    It minimizes what the kind softmax does: mean cross-entropy + strength / N / 2 * |W|^2.
    """

    kind: Literal["logistic"] = "logistic"
    strengths: Strengths = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def fit_logistic(problems: Problems, config: LogisticConfig) -> list[LinearScores]:
    """Choose the strength of each problem inside its labels, then fit it on all of them.

    Its strength is that of the least mean negative log-likelihood of held-out labels.
    """
    return fit_linear(problems, config, CrossEntropy())


class CrossEntropy:
    """Cross-entropy of softmax scores, as a `HeadLoss`: logits need no temperature."""

    def __call__(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        A, _, N = scores.shape
        scores -= scores.amax(dim=1, keepdim=True)
        truth = labels.expand(A, 1, N)
        true_scores = scores.gather(1, truth)
        shares = scores.exp_()
        total = shares.sum(dim=1, keepdim=True)
        shares /= total
        second = shares - shares.square()
        slopes = shares.scatter_add_(1, truth, shares.new_full((1, 1, 1), -1).expand(A, 1, N))
        return (total.log() - true_scores)[:, 0], slopes, second

    def choose(self, scores: Tensor, labels: Tensor, weights: Tensor, *, folds: int) -> Choice:
        shares = weights.double() / weights.sum()
        losses = torch.stack(
            [(F.cross_entropy(own, labels, reduction="none") * shares).sum() for own in scores]
        )
        best = int(losses.argmin())
        hits = scores[best].argmax(dim=1) == labels
        return Choice(
            setting=best,
            temperature=1.0,
            folds=folds,
            cv_accuracy=(hits * shares).sum().item(),
            cv_nll=losses[best].item(),
        )

    def unchosen(self, scores: Tensor, *, setting: int) -> Choice:
        return Choice(setting, temperature=1.0, folds=0, cv_accuracy=None, cv_nll=None)
