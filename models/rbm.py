"""Restricted Boltzmann machines: visible and hidden units, each side independent given the other.

Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence"; Gaussian visible
units as in Hinton & Salakhutdinov 2006.

Shapes: B rows, V visible units, H hidden units.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

VisibleKind = Literal["bernoulli", "gaussian"]
"""On or off, with values in between as probabilities; or any value, normal with variance 1."""


class Draws(Protocol):
    """Where random numbers come from; each purpose has its own."""

    def rand(self, purpose: str, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1) of shape [B, *shape]."""

    def randn(self, purpose: str, *shape: int) -> Tensor:
        """Return standard normal numbers of shape [B, *shape]."""


@dataclass(frozen=True)
class Machine(ABC):
    """What every kind of RBM can do. It owns nothing: it is made of tensors where it is needed.

    Attributes:
        weight: between hidden and visible units, with gradient where it is trained.
        hidden_bias, visible_bias: of the units.
        visible: kind of the visible units.
    """

    weight: Tensor
    hidden_bias: Tensor
    visible_bias: Tensor
    visible: VisibleKind

    @abstractmethod
    def hidden_input(self, visible: Tensor) -> Tensor:
        """Return what visible units [B, ...] and its bias add up to at each hidden unit."""

    @abstractmethod
    def free_energy(self, visible: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return -log of the unnormalized probability of each row, [B], in float32 or more.

        Args:
            visible: [B, ...].
            inputs: their `hidden_input`, where it is known.
        """

    @abstractmethod
    def hidden_mean(self, inputs: Tensor) -> Tensor:
        """Return the probability of each hidden unit with these inputs."""

    @abstractmethod
    def sample_hidden(self, inputs: Tensor, draws: Draws, purpose: str) -> Tensor:
        """Draw hidden units, 0 or 1, with these inputs."""

    @abstractmethod
    def visible_input(self, hidden: Tensor) -> Tensor:
        """Return what the hidden units and its bias add up to at each visible unit."""

    def visible_mean(self, hidden: Tensor) -> Tensor:
        """Return the mean of the visible units given hidden ones [B, ...]."""
        return visible_mean(self.visible, self.visible_input(hidden))

    def sample_visible(self, hidden: Tensor, draws: Draws, purpose: str) -> Tensor:
        """Draw visible units given hidden ones [B, ...]."""
        return sample_visible(self.visible, self.visible_input(hidden), draws, purpose)

    @torch.no_grad()
    def gibbs(self, visible: Tensor, steps: int, draws: Draws, purpose: str) -> Tensor:
        """Move visible units [B, ...] by steps of block Gibbs sampling: hidden, then visible."""
        for step in range(steps):
            inputs = self.hidden_input(visible)
            hidden = self.sample_hidden(inputs, draws, f"{purpose}/hidden{step}")
            visible = self.sample_visible(hidden, draws, f"{purpose}/visible{step}")
        return visible


def visible_mean(kind: VisibleKind, inputs: Tensor) -> Tensor:
    """Return the mean of visible units with these inputs, of any shape."""
    return torch.sigmoid(inputs) if kind == "bernoulli" else inputs


def sample_visible(kind: VisibleKind, inputs: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Draw visible units with these inputs [B, ...]."""
    mean, shape = visible_mean(kind, inputs), inputs.shape[1:]
    if kind == "bernoulli":
        return (draws.rand(purpose, *shape) < mean).to(mean.dtype)
    return mean + draws.randn(purpose, *shape).to(mean.dtype)


def visible_energy(kind: VisibleKind, visible: Tensor, bias: Tensor) -> Tensor:
    """Return the part of each row's energy that is of visible units alone, [B].

    Args:
        kind: -v b if bernoulli, (v - b)^2 / 2 if gaussian, summed.
        visible: [B, ...].
        bias: of a shape that broadcasts to a row.
    """
    energy = -visible * bias if kind == "bernoulli" else (visible - bias).square() / 2
    return energy.flatten(1).sum(1)


@dataclass(frozen=True)
class DenseRbm(Machine):
    """Every visible unit meets every hidden one: weight [H, V], biases [H] and [V].

    E(v, h) = -v b - h c - h W v with Bernoulli visible units, and |v - b|^2 / 2 in the place of
    -v b with Gaussian ones.
    """

    def hidden_input(self, visible: Tensor) -> Tensor:
        """Return W v + c, [B, H]."""
        return F.linear(visible, self.weight, self.hidden_bias).to(self.weight.dtype)

    def free_energy(self, visible: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the visible units' energy - sum of softplus(W v + c), [B]."""
        inputs = self.hidden_input(visible) if inputs is None else inputs
        of_visible = visible_energy(self.visible, visible, self.visible_bias)
        return of_visible - F.softplus(inputs).sum(1)

    def hidden_mean(self, inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs)

    def sample_hidden(self, inputs: Tensor, draws: Draws, purpose: str) -> Tensor:
        return (draws.rand(purpose, inputs.shape[1]) < inputs.sigmoid()).to(inputs.dtype)

    def visible_input(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight.T, self.visible_bias).to(self.weight.dtype)
