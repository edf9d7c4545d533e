"""What an encoder's features promise, without a single label: how many directions they use, how
fast their variances fall, and whether views of an image lie together while images are spread.

Shapes: N images, F features, C channels, H height, W width.
"""

from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from data.augment import Augment, AugmentConfig
from models.encoders import Encoder
from pretrain.objective import to_float
from pretrain.reference import reference_features
from training.randomness import derive_seed

_VIEWS = AugmentConfig(horizontal_flip=False, shift=0.07, scale=(0.8, 1.25), rotation=10.0)
# The first variances are those of brightness and the like, the last ones are noise.
_FIRST_DIRECTION = 5
_LEAST_VARIANCE = 1e-6
_LEAST_DIRECTIONS = 3
_STEEPEST = 10.0
_TEMPERATURE = 2.0


@dataclass(frozen=True)
class LabelFreeScores:
    """Scores of an encoder's features of images; nan where these are not finite.

    Fields:
        rank: effective number of directions, 1 or more; the higher the better (RankMe).
        decay: exponent of the power law by which their variances fall; best at 1 (alpha-ReQ).
        alignment: mean squared distance of two views of an image, on the unit sphere; 0 to 4, the
            lower the better if images are spread, which is what `uniformity` says.
        uniformity: log of the mean Gaussian potential of pairs of images on the sphere; -4 to 0,
            the lower the better.
    """

    rank: float
    decay: float
    alignment: float
    uniformity: float

    def better(self) -> tuple[float, float, float]:
        """Return one number for each of the three opinions, the higher the better."""
        return self.rank, -abs(self.decay - 1), -(self.alignment + self.uniformity)

    @property
    def finite(self) -> bool:
        """Whether there are numbers."""
        return all(np.isfinite(value) for value in asdict(self).values())


OPINIONS = ("effective rank", "decay of variances", "alignment and uniformity")
"""What each number of `LabelFreeScores.better` is about."""


def label_free_scores(encoder: Encoder, images: Tensor) -> LabelFreeScores:
    """Return the scores of an encoder, in eval mode, on images uint8 [N, C, H, W], N 3 or more.

    Of the mean over positions of all stages' features, each standardized, as heads see them.
    """
    augment = Augment(_VIEWS)
    floats = to_float(images)
    views = []
    for view in ("one", "other"):
        generator = torch.Generator().manual_seed(derive_seed(0, f"label-free/{view}"))
        seen = augment.apply(floats, augment.draw(len(images), generator))
        views.append(reference_features(encoder, seen))
    rows = reference_features(encoder, images)
    if not rows.isfinite().all():
        return LabelFreeScores(*[float("nan")] * len(fields(LabelFreeScores)))
    mean, std = rows.mean(0), rows.std(0)
    varies = std > 1e-4 * rows.square().mean().sqrt()
    if not varies.any():
        return LabelFreeScores(rank=1.0, decay=_STEEPEST, alignment=0.0, uniformity=0.0)
    rows, *views = (((part - mean) / std)[:, varies] for part in (rows, *views))
    return LabelFreeScores(rank_me(rows), variance_decay(rows), alignment(*views), uniformity(rows))


def rank_me(rows: Tensor) -> float:
    """Return exp of the entropy of the singular values of rows [N, F], as shares of their sum.

    Garrido et al. 2023, "RankMe: Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank". 1 to min(N, F).
    """
    values = torch.linalg.svdvals(rows.double())
    return torch.special.entr(values / values.sum()).sum().exp().item()


def variance_decay(rows: Tensor) -> float:
    """Return alpha where the k-th largest variance of centred rows [N, F] falls as k^-alpha.

    Agrawal et al. 2022, "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by
    Measuring Eigenspectrum Decay". By least squares on logarithms, from the fifth direction on
    where there are enough; at most 10, which fewer than three directions have.
    """
    centred = rows.double() - rows.double().mean(0)
    variances = torch.linalg.svdvals(centred).square()
    kept = int((variances > _LEAST_VARIANCE * variances[0]).sum())
    if kept < _LEAST_DIRECTIONS:
        return _STEEPEST
    first = min(_FIRST_DIRECTION, kept - _LEAST_DIRECTIONS + 1)
    places = np.log(np.arange(first, kept + 1))
    slope, _ = np.polyfit(places, variances[first - 1 : kept].log().numpy(), 1)
    return min(float(-slope), _STEEPEST)


def alignment(one: Tensor, other: Tensor) -> float:
    """Return the mean squared distance of paired rows [N, F], each brought to length 1.

    Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere".
    """
    return (F.normalize(one) - F.normalize(other)).square().sum(1).mean().item()


def uniformity(rows: Tensor) -> float:
    """Return log of the mean of exp(-2 d^2) over pairs of rows [N, F], each brought to length 1.

    Wang & Isola 2020, as `alignment`.
    """
    squares = torch.pdist(F.normalize(rows)).square()
    return (-_TEMPERATURE * squares).exp().mean().log().item()


def mean_ranks(scores: list[LabelFreeScores]) -> tuple[list[float], float]:
    """Return the mean place of each encoder in the three orders, and how far these agree.

    Returns:
        Places, 1 being the best; and Kendall's coefficient of concordance W of the three orders,
        from 0, no agreement, to 1, the same order; nan for fewer than two encoders.
    """
    table = np.array([one.better() for one in scores])
    places = np.stack([rankdata(-column) for column in table.T])
    count = len(scores)
    if count < 2:
        return places.mean(0).tolist(), float("nan")
    sums = places.sum(0)
    ties = sum((found**3 - found).sum() for found in map(_tied, places))
    judges = len(places)
    most = judges**2 * (count**3 - count) - judges * ties
    concordance = 12 * ((sums - sums.mean()) ** 2).sum() / most if most > 0 else float("nan")
    return places.mean(0).tolist(), float(concordance)


def _tied(places: np.ndarray) -> np.ndarray:
    return np.unique(places, return_counts=True)[1]
