"""Linear discriminant analysis: Gaussian classes with one covariance, shrunk.

Shapes: D problems (draws), N labelled rows, F features, P features after rotation, M other rows,
C classes, S shrinkages.

The covariance of many features over few rows is drawn towards a multiple of the identity
(Friedman, 1989; Ledoit & Wolf, 2004). One eigendecomposition gives the inverses for all
shrinkages.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from downstream.heads.choosing import ascending, choose_inside, linear_head, one_by_one
from downstream.heads.problems import ChosenInside, Inference, LinearScores, Problems
from downstream.heads.prototypes import class_means
from downstream.heads.spectrum import Spectrum, spectrum, spectrum_flops
from downstream.heads.standardize import standardize


class DiscriminantConfig(ChosenInside):
    """A linear head by discriminant analysis."""

    kind: Literal["discriminant"] = "discriminant"
    inference: ClassVar[Inference] = "inductive"
    shrinkages: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(ascending)
    ] = Field(
        (0.01, 0.1, 0.3, 0.6, 0.9, 0.97, 0.99, 1.0),
        min_length=1,
        description="shares of the identity in the covariance to choose from, weakest first; at 1 "
        "the nearest class mean wins",
    )


@torch.no_grad()
def fit_discriminant(problems: Problems, config: DiscriminantConfig) -> list[LinearScores]:
    """Choose the shrinkage of each problem inside its labels, then fit it on all of them."""
    features, classes = problems.features.shape[2], problems.classes

    def score(rows: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        gaussians = estimate(rows, labels, classes=classes, features=features)
        solutions = [gaussians.solution(shrinkage) for shrinkage in config.shrinkages]
        return torch.stack([others @ weight + bias for weight, bias in solutions])

    heads = []
    for raw, labels, folds in one_by_one(problems):
        standardized, standardizer = standardize(raw, floor=problems.std_floor)
        rows = standardized.double()
        choice = choose_inside(rows, labels, folds, score)
        shrinkage = config.shrinkages[choice.setting]
        gaussians = estimate(rows, labels, classes=classes, features=features)
        solution = gaussians.solution(shrinkage)
        heads.append(linear_head(solution, standardizer, choice, shrinkage=shrinkage))
    return heads


def discriminant_flops(config: DiscriminantConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and fitting one head takes."""
    rotated = labels if 2 * labels <= features else features
    solutions = 4 * len(config.shrinkages) * classes * rotated * min(labels, rotated)
    fits = config.held_out_folds(labels) + 1
    return fits * (spectrum_flops(labels, rotated) + solutions)


@dataclass(frozen=True)
class Gaussians:
    """Classes as Gaussians of one covariance.

    Fields:
        means: float64 [C, P]; log_priors: float64 [C].
        within: the spectrum of the N rows, each less the mean of its class.
        rows: N.
        variance: of a feature within classes, the mean over all F; 0 where each class has one row.
    """

    means: Tensor
    log_priors: Tensor
    within: Spectrum
    rows: int
    variance: float

    def solution(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return weight [P, C] and bias [C] of the log posterior times the variance.

        Times the variance, scores at shrinkage 1 are half the negative squared distances to the
        means, also where no variance is known. What all classes share is left out.
        """
        outside = shrinkage if self.variance > 0 else 1.0
        inside = (1 - shrinkage) * self.within.squares / (self.rows * self.variance) + outside
        along = self.means @ self.within.right * (1 / inside - 1 / outside)
        weight = self.means / outside + along @ self.within.right.T
        bias = self.log_priors * self.variance - (self.means * weight).sum(dim=1) / 2
        return weight.T, bias


def estimate(rows: Tensor, labels: Tensor, *, classes: int, features: int) -> Gaussians:
    """Estimate the classes from rows float64 [N, P] with labels [N], in [0, classes).

    A class without a row counts as half a row at the mean of all.

    Args:
        features: F, over which the variance spreads; rows may have been rotated to fewer.
    """
    means = class_means(rows, labels, classes)
    within = spectrum(rows - means[labels])
    variance = within.squares.sum().item() / (len(rows) * features)
    counts = torch.bincount(labels, minlength=classes).double().clamp_min(0.5)
    return Gaussians(means, (counts / len(rows)).log(), within, len(rows), variance)
