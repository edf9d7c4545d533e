"""Ridge regression on one-hot targets in closed form, its strength by exact leave-one-out.

Shapes: D problems (draws), N labelled rows, F features, P features after rotation, C classes,
S strengths, R directions that the rows span.

One eigendecomposition gives the fits at all strengths and, by the hat matrix, what each would have
given a row had it not been there (Allen, 1974; Golub, Heath & Wahba, 1979).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from downstream.heads.choosing import Choice, ascending, choose, linear_head, unchosen
from downstream.heads.problems import Inference, LinearScores, Problems
from downstream.heads.spectrum import Spectrum, spectrum, spectrum_flops
from downstream.heads.standardize import standardize


class RidgeConfig(BaseModel):
    """A linear head by least squares on one-hot targets.

    Rows are scaled to a mean squared length of 1, so that strengths mean the same for any number
    of features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ridge"] = "ridge"
    inference: ClassVar[Inference] = "inductive"
    strengths: Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)] = Field(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        min_length=1,
        description="L2 strengths to choose from, weakest first",
    )


@torch.no_grad()
def fit_ridge(problems: Problems, config: RidgeConfig) -> list[LinearScores]:
    """Choose the strength of each problem by leaving out each label in turn, then fit it on all.

    By the likelihood, as other heads choose. On held-out training images of Fashion-MNIST and
    CIFAR-10 it chose better than accuracy, which is much the same at most strengths and noisy with
    few labels, and as well as squared error.
    """
    heads = []
    for raw, labels in zip(problems.features, problems.labels, strict=True):
        rows, standardizer = standardize(raw, floor=problems.std_floor, rotate=False)
        ridge = decompose(rows, labels, problems.classes)
        choice = choose_strength(ridge, labels, config, copies=problems.copies)
        strength = config.strengths[choice.setting]
        heads.append(linear_head(ridge.solution(strength), standardizer, choice, strength=strength))
    return heads


def ridge_flops(config: RidgeConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    left_out = 2 * len(config.strengths) * classes * labels * min(labels, features)
    return spectrum_flops(labels, features) + left_out


@dataclass(frozen=True)
class Ridge:
    """Rows and targets, centred and decomposed: solved at any strength by small products.

    Fields, all in the rows' precision:
        mean: [P], of the rows; rows: their spectrum, once centred.
        targets: [N, C], of classes one-hot; shares: [C], their mean.
        loads: [R, C], how the rows' left directions occur in the centred targets.
    """

    mean: Tensor
    rows: Spectrum
    targets: Tensor
    shares: Tensor
    loads: Tensor

    def solution(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return weight [P, C] and free bias [C] of least squared error + strength * |W|^2."""
        squares = self.rows.squares[:, None]
        weight = self.rows.weights(self.loads * squares.sqrt() / (squares + strength))
        return weight, self.shares - self.mean @ weight

    def fitted(self, strength: float) -> Tensor:
        """Return the solution's scores of its own rows, [N, C]."""
        kept = self.rows.squares / (self.rows.squares + strength)
        return self.shares + self.rows.left @ (kept[:, None] * self.loads)

    def left_out(self, strength: float, *, copies: int = 0) -> Tensor:
        """Return what the solution without a row, and without its copies, gives that row, [N, C].

        Args:
            copies: how many each row has; all rows come first, then the first copy of each, ...
        """
        kept = self.rows.squares / (self.rows.squares + strength)
        residuals = self.targets - self.fitted(strength)
        if not copies:
            slack = 1 - 1 / len(self.targets) - self.rows.left.square() @ kept
            return self.targets - residuals / slack.clamp_min(1e-12)[:, None]
        left, grouped = (
            part.unflatten(0, (1 + copies, -1)) for part in (self.rows.left, residuals)
        )
        left, grouped = left.transpose(0, 1), grouped.transpose(0, 1)
        hat = (left * kept) @ left.mT + 1 / len(self.targets)
        slack = torch.eye(1 + copies, dtype=hat.dtype, device=hat.device) - hat
        errors = torch.linalg.lstsq(slack, grouped).solution
        return self.targets - errors.transpose(0, 1).flatten(0, 1)


def decompose(rows: Tensor, labels: Tensor, classes: int) -> Ridge:
    """Prepare rows [N, P] with labels [N], in [0, classes), for solving."""
    return decompose_targets(rows, F.one_hot(labels, classes).to(rows.dtype))


def decompose_targets(rows: Tensor, targets: Tensor) -> Ridge:
    """Prepare rows [N, P] with targets [N, C] for solving."""
    mean = rows.mean(dim=0)
    parts = spectrum(rows - mean)
    shares = targets.mean(dim=0)
    return Ridge(mean, parts, targets, shares, parts.loads(targets - shares))


def choose_strength(
    ridge: Ridge, labels: Tensor, config: RidgeConfig, *, copies: int = 0
) -> Choice:
    """Choose a strength by the mean negative log-likelihood of all labels, each left out in turn.

    Labels that are the only one of their class say nothing when they are left out and do not
    count. Where they are the most, the strongest penalty is taken.
    """
    counted = torch.bincount(labels)[labels] > 1 + copies
    if 2 * int(counted.sum()) < len(labels):
        strongest = ridge.fitted(config.strengths[-1])
        return unchosen(strongest, setting=len(config.strengths) - 1)
    # A row that is left out makes its class rarer, and with few labels that lower bias alone would
    # decide. It gets the bias of the class shares that the head is going to have.
    rarer = (ridge.targets - ridge.shares) / (len(labels) / (1 + copies) - 1)
    scores = [
        (ridge.left_out(strength, copies=copies) + rarer)[counted] for strength in config.strengths
    ]
    return choose(torch.stack(scores), labels[counted], folds=int(counted.sum()))
