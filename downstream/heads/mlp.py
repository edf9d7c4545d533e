"""A hidden layer as a head, on standardized features.

Shapes: N labelled rows, F features, P features after rotation.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from downstream.heads.networks import NetworkConfig, NetworkScores, fit_network
from downstream.heads.problems import Problems
from downstream.heads.standardize import Standardizer, standardize
from models.head_networks import MlpHead, MlpSpec
from models.stages import Width


class MlpConfig(NetworkConfig):
    """A head with one hidden layer of rectified units."""

    kind: Literal["mlp"] = "mlp"
    hidden: Width = Field(128, description="units of the hidden layer")

    def spec(self) -> MlpSpec:
        """Return what the network is."""
        return MlpSpec(hidden=self.hidden)


def fit_mlp(problems: Problems, config: MlpConfig, *, seeds: Sequence[int]) -> list[NetworkScores]:
    """Choose weight decay and steps of each problem inside its labels, then train on all of them.

    Args:
        seeds: of weights, batches and dropout, one for each problem.
    """
    heads = []
    for number, raw in enumerate(problems.features):
        rows, standardizer = standardize(raw, floor=problems.std_floor)
        scale = rows.shape[1] ** 0.5  # a mean square of 1 for each feature, as He's draw expects

        def make(seed: int, width: int = rows.shape[1]) -> MlpHead:
            outputs = problems.output.width(problems.classes)
            return MlpHead(width, config.hidden, outputs, dropout=config.dropout, seed=seed)

        network, choices = fit_network(rows * scale, problems, number, config, make, seeds[number])
        on_raw_features(network, standardizer, scale)
        heads.append(NetworkScores(network, problems.output, choices))
    return heads


@torch.no_grad()
def on_raw_features(network: MlpHead, standardizer: Standardizer, scale: float) -> None:
    """Turn a network on standardized rows, times `scale`, into the same one on raw features."""
    hidden = network.hidden
    weight, bias = standardizer.on_raw_features(hidden.weight.T * scale, hidden.bias)
    network.hidden = nn.Linear(len(weight), len(bias), device=weight.device)
    network.hidden.weight.copy_(weight.T)
    network.hidden.bias.copy_(bias)


def mlp_flops(config: MlpConfig, labels: int, features: int, classes: int) -> int:
    """Return about how many floating-point operations choosing and training one head takes."""
    rotated = labels if 2 * labels <= features else features
    fits = config.held_out_folds(labels) * len(config.weight_decays) + 1
    return 6 * fits * config.steps * config.batch_size * config.hidden * (rotated + classes)
