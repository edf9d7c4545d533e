"""Optimizers by kind, and which parameters they decay."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class _OptimizerBase(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Decay = Annotated[
    float, Field(ge=0, description="Weight decay; never on biases, norms and other vectors.")
]
_Rate = Annotated[float, Field(gt=0, description="Full learning rate; the schedule scales it.")]
_Beta = Annotated[float, Field(ge=0, lt=1)]


class _AdamBase(_OptimizerBase):
    betas: tuple[_Beta, _Beta] = Field(
        default=(0.9, 0.999), description="Decay of the running mean and mean square of gradients."
    )
    eps: float = Field(default=1e-8, gt=0)


class AdamConfig(_AdamBase):
    """Adam (Kingma & Ba, 2015); weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    lr: _Rate = 1e-3
    weight_decay: _Decay = 0.0


class AdamWConfig(_AdamBase):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: _Rate = 1e-3
    weight_decay: _Decay = 0.05


class SGDConfig(_OptimizerBase):
    """Plain stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    lr: _Rate = 0.1
    weight_decay: _Decay = 0.0


class MomentumConfig(_OptimizerBase):
    """Stochastic gradient descent with momentum, Nesterov's form by request."""

    kind: Literal["momentum"] = "momentum"
    lr: _Rate = 0.05
    weight_decay: _Decay = 0.0
    momentum: float = Field(default=0.9, gt=0, lt=1)
    nesterov: bool = False


OptimizerConfig = Annotated[
    AdamConfig | AdamWConfig | SGDConfig | MomentumConfig, Field(discriminator="kind")
]


def norm_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Return the scales and shifts of every normalization inside `module`."""
    return {
        parameter
        for child in module.modules()
        if isinstance(child, NORMALIZATIONS)
        for parameter in child.parameters(recurse=False)
    }


def build_optimizer(
    config: OptimizerConfig,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr_factors: Mapping[str, float] | None = None,
    norms: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Build an optimizer over groups of parameters.

    Weight decay applies to parameters of two and more axes that are neither biases nor in
    `norms`. The fused implementation is used: it computes a step in one pass.

    Args:
        config: kind and hyperparameters.
        named_parameters: (dotted name, parameter) pairs.
        lr_factors: prefix of names (whole dotted parts) -> factor on the learning rate; the
            longest prefix wins; 1 where none matches.
        norms: parameters of normalizations, as `norm_parameters` finds them.
    Returns:
        An optimizer whose groups carry `base_lr`, the learning rate at multiplier 1.
    Raises:
        ValueError: no parameters, or a prefix that matches no name.
    """
    named = list(named_parameters)
    if not named:
        raise ValueError("an optimizer needs at least one parameter, got none")
    factors = dict(lr_factors or {})
    unmatched = [p for p in factors if not any(_has_prefix(name, p) for name, _ in named)]
    if unmatched:
        raise ValueError(f"lr_factors name {unmatched}, but no parameter begins so")

    norms = set(norms)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        prefixes = [prefix for prefix in factors if _has_prefix(name, prefix)]
        factor = factors[max(prefixes, key=len)] if prefixes else 1.0
        is_bias = name.rpartition(".")[2] == "bias"
        decayed = parameter.ndim >= 2 and not is_bias and parameter not in norms
        groups.setdefault((factor, decayed), []).append(parameter)

    param_groups = [
        {
            "params": parameters,
            "lr": config.lr * factor,
            "base_lr": config.lr * factor,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), parameters in groups.items()
    ]
    if isinstance(config, AdamConfig):
        return torch.optim.Adam(param_groups, betas=config.betas, eps=config.eps, fused=True)
    if isinstance(config, AdamWConfig):
        return torch.optim.AdamW(param_groups, betas=config.betas, eps=config.eps, fused=True)
    if isinstance(config, MomentumConfig):
        return torch.optim.SGD(
            param_groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            fused=True,
        )
    return torch.optim.SGD(param_groups, lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
