"""The partition function of a dense RBM: by enumeration where it is small, else by an estimate.

Shapes: B rows or chains, V visible units, H hidden units.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from models.rbm import DenseRbm, Draws, sample_visible, visible_energy

MOST_ENUMERATED = 20
"""Units of the smaller side whose states are all gone through: a million."""

_AT_ONCE = 2**13


@dataclass(frozen=True)
class LogPartition:
    """log Z.

    Attributes:
        value: in nats.
        error: standard error of an estimate; 0 where it is exact.
    """

    value: float
    error: float


def can_enumerate(rbm: DenseRbm) -> bool:
    """Tell whether the RBM has a side that is small enough; the visible one must be Bernoulli."""
    hidden, visible = rbm.weight.shape
    return hidden <= MOST_ENUMERATED or (_has_states(rbm) and visible <= MOST_ENUMERATED)


@torch.no_grad()
def exact_log_partition(rbm: DenseRbm) -> LogPartition:
    """Return log Z by going through all states of the smaller side; the other is summed at once.

    Time doubles with each of its units: `can_enumerate`.
    """
    rbm = _in_double(rbm)
    hidden, visible = rbm.weight.shape
    by_visible = _has_states(rbm) and visible < hidden
    units = visible if by_visible else hidden
    bits = torch.arange(units, device=rbm.weight.device)
    parts = []
    for codes in torch.arange(2**units, device=rbm.weight.device).split(_AT_ONCE):
        states = (codes[:, None] >> bits & 1).double()
        log_weights = -rbm.free_energy(states) if by_visible else _log_sum_visible(rbm, states)
        parts.append(log_weights.logsumexp(0))
    return LogPartition(torch.stack(parts).logsumexp(0).item(), 0.0)


def _has_states(rbm: DenseRbm) -> bool:
    """Tell whether the visible units have states that can be gone through."""
    return rbm.visible == "bernoulli"


def _log_sum_visible(rbm: DenseRbm, hidden: Tensor) -> Tensor:
    """Return log of the sum, or integral, of exp(-E) over visible units, [B], for hidden [B, H]."""
    inputs = rbm.visible_input(hidden)
    if rbm.visible == "bernoulli":
        of_visible = F.softplus(inputs).sum(1)
    else:
        squares = (inputs.square() - rbm.visible_bias.square()).sum(1)
        of_visible = (squares + inputs.shape[1] * math.log(2 * math.pi)) / 2
    return hidden @ rbm.hidden_bias + of_visible


@torch.no_grad()
def estimate_log_partition(
    rbm: DenseRbm, base_bias: Tensor, draws: Draws, *, temperatures: int
) -> LogPartition:
    """Estimate log Z by annealed importance sampling, one run for each of the B rows of `draws`.

    Salakhutdinov & Murray 2008, "On the Quantitative Analysis of Deep Belief Networks". The runs
    start at an RBM without weights, whose visible units have `base_bias`. The estimate of Z is
    unbiased; the error is that of its logarithm, from the spread of the runs. Runs that all miss a
    part of the distribution do not show it.

    Args:
        rbm: of any size.
        base_bias: [V]; best is what gives the mean of the data.
        draws: gives B rows at a time.
        temperatures: distributions on the way, 1 or more; they lie closer towards the end.
    """
    kind, bias = rbm.visible, rbm.visible_bias
    shares = 1 - torch.linspace(1, 0, temperatures + 1, dtype=torch.float64).square()
    # One row of inputs; the draws have as many as there are runs.
    visible = sample_visible(kind, base_bias[None], draws, "ais/start")
    log_weights = torch.zeros(len(visible), dtype=torch.float64, device=bias.device)
    for number, (before, share) in enumerate(pairwise(shares.tolist())):
        inputs = rbm.hidden_input(visible)
        change = visible_energy(kind, visible, base_bias) - visible_energy(kind, visible, bias)
        grown = (F.softplus(share * inputs) - F.softplus(before * inputs)).sum(1)
        log_weights += (share - before) * change + grown
        on = torch.sigmoid(share * inputs)
        hidden = (draws.rand(f"ais/hidden{number}", on.shape[1]) < on).to(on.dtype)
        mixed = share * rbm.visible_input(hidden) + (1 - share) * base_bias
        visible = sample_visible(kind, mixed, draws, f"ais/visible{number}")
    if kind == "bernoulli":
        start_log_z = F.softplus(base_bias).sum().item()
    else:
        start_log_z = len(bias) * math.log(2 * math.pi) / 2
    start_log_z += len(rbm.hidden_bias) * math.log(2)
    log_mean = log_weights.logsumexp(0) - math.log(len(log_weights))
    relative = (log_weights - log_mean).exp()
    error = relative.std() / math.sqrt(len(relative))
    return LogPartition(start_log_z + log_mean.item(), error.item())


def _in_double(rbm: DenseRbm) -> DenseRbm:
    return DenseRbm(
        rbm.weight.double(), rbm.hidden_bias.double(), rbm.visible_bias.double(), rbm.visible
    )
