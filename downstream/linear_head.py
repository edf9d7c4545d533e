"""Linear softmax heads, many at once: cross-validated strength and steps, then one refit per
problem.

Shape legend: D problems of equal size (draws), N labelled rows, F features, P features after
rotation, C classes, S strengths, K folds, H = S * K heads.

Every head minimizes mean cross-entropy + strength/2 * |W|^2 (bias free) by full-batch Adam (Kingma
& Ba, 2015) with a cosine schedule. Gradients are written out: the heads of one problem then share
two matrix products per step, which is what makes hundreds of them cheap.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Standardizer:
    """Affine map of raw features onto the standardized, rotated features that the heads are fitted
    on.

    Fields:
        mean, scale: [F]; standardized = (raw - mean) / scale.
        rotation: [F, P] with orthonormal columns, or None where P = F.
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor | None

    def unrotate(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Express a head [P, C], [C] as weights [F, C] and bias [C] for raw features."""
        if self.rotation is not None:
            weight = self.rotation @ weight
        weight = weight / self.scale[:, None]
        return weight, bias - self.mean @ weight


def standardize(raw: Tensor, *, floor: float) -> tuple[Tensor, Standardizer]:
    """Standardize labelled rows [N, F] by their own mean and deviation; rotate to their row space
    if N << F.

    The L2-penalized optimum is the same in both bases, because the penalty does not see rotations
    and the optimal weights lie in the row space. The scale of a feature is never below `floor`
    times the root mean
    square deviation of all features: a feature nearly constant in a few rows would otherwise
        explode on others.
    """
    mean = raw.mean(dim=0)
    centered = raw - mean
    variance = centered.square().mean(dim=0)
    scale = torch.sqrt(variance.clamp_min(floor**2 * variance.mean() + 1e-12))
    rows = centered / scale
    N, F = rows.shape
    if 2 * N > F:
        return rows, Standardizer(mean, scale, None)
    eigenvalues, vectors = torch.linalg.eigh((rows @ rows.T).double())
    kept = eigenvalues > 1e-6 * eigenvalues[-1]
    lengths = eigenvalues[kept].sqrt().to(rows.dtype)
    vectors = vectors[:, kept].to(rows.dtype)
    # Signs of eigenvectors are arbitrary; the heads start at zero and Adam is odd, so they cancel.
    return vectors * lengths, Standardizer(mean, scale, rows.T @ (vectors / lengths))


class HeadBatch:
    """D x H softmax heads on D sets of rows, stepped together.

    Args:
        rows: [D, N, P]. labels: [D, N] in [0, C).
        trained: [D, H, N] bool; which rows each head learns from.
        strengths: [D, H].
    """

    def __init__(
        self, rows: Tensor, labels: Tensor, trained: Tensor, strengths: Tensor, *, classes: int
    ) -> None:
        D, N, P = rows.shape
        H = strengths.shape[1]
        self.rows, self.classes, self.heads = rows, classes, H
        self.columns = rows.transpose(1, 2).contiguous()
        self.labels = labels[:, :, None, None].expand(D, N, H, 1)
        # Divided by the number of trained rows, so that strengths mean the same for every fold.
        share = trained.to(rows.dtype) / trained.sum(dim=2, keepdim=True)
        self.share = share.transpose(1, 2).contiguous()[..., None]
        self.strengths = strengths.repeat_interleave(classes, dim=1)[:, None, :]
        self.weight = rows.new_zeros(D, P, H * classes)
        self.bias = rows.new_zeros(D, 1, H * classes)
        self.moments = [
            (torch.zeros_like(p), torch.zeros_like(p)) for p in (self.weight, self.bias)
        ]
        self.step_count = 0

    def log_probabilities(self) -> Tensor:
        """[D, N, H, C], at the present weights."""
        D, N, _ = self.rows.shape
        logits = torch.baddbmm(self.bias, self.rows, self.weight)
        return torch.log_softmax(logits.view(D, N, self.heads, self.classes), dim=3)

    def step(self, log_probabilities: Tensor, learning_rate: float) -> None:
        """One Adam step from the log-probabilities at the present weights."""
        D, N, _ = self.rows.shape
        error = log_probabilities.exp()
        error.scatter_add_(
            3, self.labels, error.new_full((1, 1, 1, 1), -1.0).expand_as(self.labels)
        )
        error = (error * self.share).view(D, N, -1)
        gradient = torch.bmm(self.columns, error).addcmul_(self.weight, self.strengths)
        self.step_count += 1
        correction = math.sqrt(1 - BETA2**self.step_count)
        rate = learning_rate * correction / (1 - BETA1**self.step_count)
        for parameter, slope, (first, second) in zip(
            (self.weight, self.bias),
            (gradient, error.sum(dim=1, keepdim=True)),
            self.moments,
            strict=True,
        ):
            first.lerp_(slope, 1 - BETA1)
            second.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
            parameter.addcdiv_(first, second.sqrt().add_(EPSILON * correction), value=-rate)
