"""Linear support vector machines, one class against the rest: strength by cross-validation.

Shapes: C classes, A heads, N labelled rows, S strengths, M held-out rows.

The hinge is squared, as in scikit-learn's LinearSVC and LIBLINEAR (Fan et al., 2008), which makes
the loss smooth. Margins are no log-probabilities: they are divided by one temperature for each
problem, fitted on held-out rows.
"""

from typing import Literal

import torch
from torch import Tensor

from downstream.heads.choosing import Choice, choose, unchosen
from downstream.heads.linear import SolvedConfig, Strengths, fit_linear
from downstream.heads.problems import LinearScores, Problems


class SvmConfig(SolvedConfig):
    """A linear support vector machine with the squared hinge, solved to convergence by L-BFGS.

    It minimizes the mean over rows of the classes' summed losses + strength / N / 2 * |W|^2: the
    strength is 1 / C of LinearSVC on the scaled rows, the bias is free.
    """

    kind: Literal["svm"] = "svm"
    strengths: Strengths = (0.1, 0.3, 1.0, 3.0, 10.0)


def fit_svm(problems: Problems, config: SvmConfig) -> list[LinearScores]:
    """Choose the strength of each problem inside its labels, then fit it on all of them.

    Its strength is that of the least mean negative log-likelihood of held-out labels, each at its
    own temperature.
    """
    return fit_linear(problems, config, SquaredHinge())


class SquaredHinge:
    """Squared hinge of each class against the rest, summed over classes, as a `HeadLoss`."""

    def __call__(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        classes = torch.arange(scores.shape[1], device=scores.device)
        signs = torch.where(labels == classes[:, None], 1.0, -1.0)
        short = (1 - signs * scores).clamp_min_(0)
        losses = short.square().sum(dim=1)
        second = short.sign().mul_(2)
        return losses, short.mul_(signs).mul_(-2), second

    def choose(self, scores: Tensor, labels: Tensor, weights: Tensor, *, folds: int) -> Choice:
        return choose(scores, labels, folds=folds)

    def unchosen(self, scores: Tensor, *, setting: int) -> Choice:
        return unchosen(scores, setting=setting)
