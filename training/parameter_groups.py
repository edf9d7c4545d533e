"""Which parameters decay, and at which learning rate each part of a network trains."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from training.errors import InputError

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Return the scales and shifts of every normalization inside `module`."""
    return {
        parameter
        for child in module.modules()
        if isinstance(child, NORMALIZATIONS)
        for parameter in child.parameters(recurse=False)
    }


def is_weight(name: str, parameter: nn.Parameter, norms: Collection[nn.Parameter]) -> bool:
    """Whether a parameter is to decay: two axes and more, neither a bias nor in `norms`."""
    is_bias = name.rpartition(".")[2] == "bias"
    return parameter.ndim >= 2 and not is_bias and parameter not in norms


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    lr_factors: Mapping[str, float] | None = None,
    norms: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and by whether they decay.

    Args:
        named_parameters: (dotted name, parameter) pairs.
        lr: learning rate where the factor is 1.
        weight_decay: of the parameters that decay (`is_weight`).
        lr_factors: prefix of names (whole dotted parts) -> factor on the learning rate; the
            longest prefix wins; 1 where none matches.
        norms: parameters of normalizations, as `norm_parameters` finds them.
    Returns:
        Groups for an optimizer. Besides `lr` and `weight_decay` each carries `base_lr`, the
        learning rate at multiplier 1, and `decayed`, whether its parameters may decay at all.
    Raises:
        ValueError: no parameters.
        InputError: a prefix that matches no name.
    """
    named = list(named_parameters)
    if not named:
        raise ValueError("an optimizer needs at least one parameter, got none")
    factors = dict(lr_factors or {})
    unmatched = [p for p in factors if not any(_has_prefix(name, p) for name, _ in named)]
    if unmatched:
        parts = sorted({name.partition(".")[0] for name, _ in named})
        raise InputError(
            f"lr_factors name {unmatched}, but no parameter begins so; use whole dotted parts of "
            f"names that begin with one of {', '.join(parts)}"
        )

    norms = set(norms)
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        prefixes = [prefix for prefix in factors if _has_prefix(name, prefix)]
        factor = factors[max(prefixes, key=len)] if prefixes else 1.0
        members.setdefault((factor, is_weight(name, parameter, norms)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factor,
            "base_lr": lr * factor,
            "weight_decay": weight_decay if decayed else 0.0,
            "decayed": decayed,
        }
        for (factor, decayed), parameters in members.items()
    ]


def l2_penalty(groups: Iterable[Mapping[str, Any]]) -> Tensor | float:
    """Return half of each group's weight decay times its trained parameters' squares, summed.

    Its gradient is weight decay times the parameter: the coupled decay of optimizers that
    evaluate the loss themselves.
    """
    return sum(
        0.5 * group["weight_decay"] * torch.sum(parameter.square())
        for group in groups
        if group["weight_decay"] > 0
        for parameter in group["params"]
        if parameter.requires_grad
    )


def _has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")
