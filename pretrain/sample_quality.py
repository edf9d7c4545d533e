"""How good generated images are, measured on features of them and of real images.

Values compare only on features of one encoder and for equal counts of images: a Fréchet distance
is the larger the fewer there are.

Shapes: N real images, M samples, F features, K clusters, C channels, H height, W width. Features
are float64 on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import bdtrc
from torch import Tensor

from models.encoders import Encoder
from pretrain.reference import reference_features
from training.randomness import derive_seed

_AT_ONCE = 1000
_MOST_CLUSTERS = 50
_LEAST_MEMBERS = 10
_MOST_ROUNDS = 100
# Of the members that as many real images would give a cluster.
_HIT = 0.25


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance of normals fitted to rows [N, F] and [M, F].

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), 0 at least: the FID of Heusel et al.
    2017, "GANs Trained by a Two Time-Scale Update Rule". Covariances may be singular. N and M are
    at least 2.
    """
    factors = [_covariance_factor(rows) for rows in (a, b)]
    # S = R'R of both: tr (S_a S_b)^(1/2) is the sum of the singular values of R_a R_b'. So no
    # root is taken of an eigenvalue that is 0 but for rounding.
    shared = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return (apart + _total_variance(a) + _total_variance(b) - 2 * shared).clamp_min(0).item()


def relative_frechet(samples: Tensor, real: Tensor) -> float:
    """Return the Fréchet distance of samples [M, F] in units of the spread of real rows [N, F].

    The unit is the trace of these' covariance. 0: alike; 1: as far as if all samples had the mean
    features; more where they lie elsewhere.
    """
    return (frechet_distance(samples, real) / _total_variance(real)).item()


def _covariance_factor(rows: Tensor) -> Tensor:
    """Return R [min(N, F), F] such that R'R is the covariance of rows [N, F]."""
    centred = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
    return torch.linalg.qr(centred, mode="r").R


def _total_variance(rows: Tensor) -> Tensor:
    """Return the trace of the covariance of rows [N, F]."""
    return rows.var(0).sum()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared MMD of rows [N, F] and [M, F] under the kernel (x'y / F + 1)^3.

    Without bias, so that it may be below 0: the KID of Bińkowski et al. 2018, "Demystifying MMD
    GANs", over all pairs instead of subsets. N and M are at least 2.
    """
    within = sum(
        (_sum_over_pairs(rows, rows, _cubic) - (rows.square().mean(1) + 1).pow(3).sum())
        / _pairs(rows)
        for rows in (a, b)
    )
    between = _sum_over_pairs(a, b, _cubic) / (len(a) * len(b))
    return (within - 2 * between).item()


def diversity(samples: Tensor, real: Tensor) -> float:
    """Return the mean distance of two samples [M, F] relative to that of two real rows [N, F].

    1: as varied; 0: all alike. Noise may have more than 1.
    """
    between = [
        _sum_over_pairs(centred, centred, torch.cdist) / _pairs(centred)
        for centred in (rows - rows.mean(0) for rows in (samples, real))
    ]
    return (between[0] / between[1]).item()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1).pow(3)


def _sum_over_pairs(a: Tensor, b: Tensor, compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the sum of what compares a row of `a` with one of `b`, a part at a time."""
    return torch.stack([compare(part, b).sum() for part in a.split(_AT_ONCE)]).sum()


def _pairs(rows: Tensor) -> int:
    return len(rows) * (len(rows) - 1)


class Clusters:
    """Where real images lie among the features, to see which of these places samples leave out.

    At most 50 clusters. Half of the real images give their centres, the other half how many
    members each has: fewer of them than of those that the centres were fitted to.
    """

    def __init__(self, real: Tensor) -> None:
        """Find the clusters of real rows [N, F], N at least 2, in an order drawn once for all."""
        generator = torch.Generator().manual_seed(derive_seed(0, "clusters"))
        order = torch.randperm(len(real), generator=generator)
        fitted, others = real[order].tensor_split(2)
        number = min(_MOST_CLUSTERS, max(1, len(fitted) // _LEAST_MEMBERS))
        self.centres = k_means(fitted, number, generator)
        self._members = self._counts(others)
        self._others = len(others)

    def coverage(self, samples: Tensor) -> float:
        """Return how many clusters samples [M, F] hit, relative to M real images, 0 to 1.

        A cluster is hit from a quarter of the members that as many real images would give it, and
        from one at least. What these would hit is an expectation: their members are binomial.
        Well below 1 it is a sign of mode collapse.
        """
        known = self._members > 0
        members, count = self._members[known].double(), len(samples)
        needed = (_HIT * count * members / self._others).ceil()
        hit = self._counts(samples)[known] >= needed
        of_real = bdtrc((needed - 1).numpy(), count, (members / self._others).numpy())
        return min(1.0, hit.double().mean().item() / of_real.mean().item())

    def _counts(self, rows: Tensor) -> Tensor:
        return _nearest(rows, self.centres).bincount(minlength=len(self.centres))


def k_means(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return the centres [K, F] of Lloyd's algorithm from a start by k-means++.

    Arthur and Vassilvitskii 2007. Fewer than asked for where fewer rows differ.

    Args:
        rows: [N, F].
        clusters: K, at most N.
        generator: of the CPU, the only source of randomness.
    """
    centres = _first_centres(rows, clusters, generator)
    before = torch.empty(0, dtype=torch.int64)
    for _ in range(_MOST_ROUNDS):
        nearest = _nearest(rows, centres)
        if torch.equal(nearest, before):
            break
        before = nearest
        counts = nearest.bincount(minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
    return centres


def _first_centres(rows: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return different rows, each drawn in proportion to its squared distance from those before."""
    chances = torch.full((len(rows),), math.inf, dtype=rows.dtype)
    row = rows[torch.randint(len(rows), (1,), generator=generator)]
    centres = [row]
    while len(centres) < clusters:
        chances = chances.minimum((rows - row).square().sum(1))
        if not chances.any():
            break
        row = rows[torch.multinomial(chances, 1, generator=generator)]
        centres.append(row)
    return torch.cat(centres)


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(rows, centres).argmin(1)


@dataclass(frozen=True)
class SampleQuality:
    """What samples are worth beside real images. nan: they are not finite.

    Attributes:
        fid_on_our_encoder: the Fréchet distance on features of a reference encoder, 0 or more;
            no published FID compares with it.
        kid_on_our_encoder: the kernel distance on the same features.
        relative_fid: the first in units of the real images' spread, 0 or more; 1: as far as if
            all samples had the mean features.
        coverage: share of the real images' clusters that samples hit, 0 to 1.
        diversity: how much samples differ, 0 or more; 1: as real images do.
    """

    fid_on_our_encoder: float
    kid_on_our_encoder: float
    relative_fid: float
    coverage: float
    diversity: float


class QualityMeasure:
    """Real images' features and their clusters, against which samples are measured.

    The time of a measurement grows with the product of the counts of images: take some thousands.
    """

    def __init__(self, encoder: Encoder, real: Tensor) -> None:
        """Look at real images uint8 [N, C, H, W], N at least 4.

        Args:
            encoder: a frozen one in eval mode, as `reference_encoder` gives it.
        """
        self._encoder = encoder
        self._real = reference_features(encoder, real)
        self._clusters = Clusters(self._real)

    def measure(self, samples: Tensor) -> SampleQuality:
        """Measure samples, uint8 or float in [0, 1], [M, C, H, W], M at least 2."""
        features = reference_features(self._encoder, samples)
        if not features.isfinite().all():  # training ends with a better word at its next loss
            return SampleQuality(*[math.nan] * 5)
        fid = frechet_distance(features, self._real)
        return SampleQuality(
            fid_on_our_encoder=fid,
            kid_on_our_encoder=kernel_distance(features, self._real),
            relative_fid=(fid / _total_variance(self._real)).item(),
            coverage=self._clusters.coverage(features),
            diversity=diversity(features, self._real),
        )
