"""How well features fit a task, computed before anything is trained for it.

Shapes: N labelled images, F features, G features of another encoder, K classes, R directions that
the rows span.
"""

import math

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

_ITERATIONS = 1000
_CLOSE = 1e-9
_LEAST_SQUARE = 1e-12
_SMALLEST = 1e-200
_LARGEST = 1e12


def log_me(features: Tensor, targets: Tensor) -> float:
    """Return the log evidence of linear models with Gaussian weights and noise, for each label.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning": the
    precisions of weights and noise are those that maximize it, by the fixed-point iteration.

    Args:
        features: [N, F]; targets: [N, K], such as one-hot classes.
    Returns:
        The mean over the K targets of log p(target | features) / N; the higher the better.
    """
    rows, wanted = features.double(), targets.double()
    count, width = rows.shape
    left, singular, _ = torch.linalg.svd(rows, full_matrices=False)
    squares = singular.square()
    loads = (left.T @ wanted).square()  # [R, K]
    # What no direction of the features reaches.
    rest = (wanted.square().sum(0) - loads.sum(0)).clamp_min(0)
    evidences = [
        _evidence(squares, load, other.item(), count, width)
        for load, other in zip(loads.T, rest, strict=True)
    ]
    return sum(evidences) / len(evidences) / count


def _evidence(squares: Tensor, loads: Tensor, rest: float, count: int, width: int) -> float:
    """Return the largest log evidence of one target, from squared loads of the rows' directions."""
    weights, noise = 1.0, 1.0  # precisions
    for _ in range(_ITERATIONS):
        kept = noise * squares / (weights + noise * squares)
        effective = kept.sum().item()
        length = (kept.square() * loads / squares.clamp_min(_LEAST_SQUARE)).sum().item()
        error = ((1 - kept).square() * loads).sum().item() + rest
        new = (
            min(max(effective, _SMALLEST) / max(length, _SMALLEST), _LARGEST),
            max(count - effective, _LEAST_SQUARE) / max(error, _LEAST_SQUARE),
        )
        change = abs(math.log(new[0] / weights)) + abs(math.log(new[1] / noise))
        weights, noise = new
        if change < _CLOSE:
            break
    kept = noise * squares / (weights + noise * squares)
    length = (kept.square() * loads / squares.clamp_min(_LEAST_SQUARE)).sum().item()
    error = ((1 - kept).square() * loads).sum().item() + rest
    determinant = (weights + noise * squares).log().sum().item()
    determinant += (width - len(squares)) * math.log(weights)
    return 0.5 * (
        count * math.log(noise)
        + width * math.log(weights)
        - count * math.log(2 * math.pi)
        - noise * error
        - weights * length
        - determinant
    )


def h_score(features: Tensor, labels: Tensor) -> float:
    """Return how much of the features' spread is between classes, in units of their covariance.

    tr(cov(f)^-1 cov(E[f | class])) of Bao et al. 2019, "An Information-Theoretic Approach to
    Transferability in Task Transfer Learning", with the shrunk covariance of Ibrahim et al. 2022,
    "Newer is not always better: Rethinking transferability metrics", which few images and many
    features need.

    Args:
        features: [N, F]; labels: int64 [N].
    Returns:
        0 to K - 1; the higher the better.
    """
    rows = features.double() - features.double().mean(0)
    count, width = rows.shape
    shrinkage = float(ledoit_wolf_shrinkage(rows.numpy(), assume_centered=True))
    _, singular, axes = torch.linalg.svd(rows, full_matrices=False)
    variances = singular.square() / count
    shrunk = (1 - shrinkage) * variances + shrinkage * variances.sum() / width
    score = 0.0
    for label in labels.unique():
        own = labels == label
        mean = axes @ rows[own].mean(0)  # it lies in what the rows span
        within = mean.square() / shrunk.clamp_min(_LEAST_SQUARE)
        score += own.double().mean().item() * within[variances > 0].sum().item()
    return (1 - shrinkage) * score


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Return how alike two features of the same images are, whatever their rotation and scale.

    Linear centred kernel alignment of Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited", by the unbiased estimate of Song et al. 2012, so that many features
    of few images do not look alike for that alone (Nguyen et al. 2021).

    Args:
        one: [N, F]; other: [N, G], such as one-hot classes; N 4 or more.
    Returns:
        1 where they are equal up to rotation and scale, about 0, or a little below, where they
        have nothing in common; nan where one is constant.
    """
    kernels = [rows @ rows.T for rows in (one.double(), other.double())]
    for kernel in kernels:
        kernel.fill_diagonal_(0)
    own = [_unbiased_hsic(kernel, kernel) for kernel in kernels]
    if min(own) <= 0:
        return math.nan
    return _unbiased_hsic(*kernels) / math.sqrt(own[0] * own[1])


def _unbiased_hsic(one: Tensor, other: Tensor) -> float:
    """Return the independence criterion of two kernels [N, N] with zero diagonals."""
    count = len(one)
    sums = one.sum(0), other.sum(0)
    total = (one * other).sum()
    total += sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    total -= 2 * (sums[0] @ sums[1]) / (count - 2)
    return float(total / (count * (count - 3)))
