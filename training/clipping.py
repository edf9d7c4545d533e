"""Gradient clipping by kind."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.layer_units import unit_norms


class _ClipBase(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoClip(_ClipBase):
    """Gradients as they are."""

    kind: Literal["none"] = "none"


class ValueClip(_ClipBase):
    """Every value of the gradient into [-max_value, max_value]."""

    kind: Literal["value"] = "value"
    max_value: float = Field(default=1.0, gt=0)


class NormClip(_ClipBase):
    """A phase's whole gradient, scaled down where it is longer (Pascanu et al., 2013)."""

    kind: Literal["norm"] = "norm"
    max_norm: float = Field(default=1.0, gt=0)


class AdaptiveClip(_ClipBase):
    """Each unit's gradient, scaled down to a share of its weights' norm (Brock et al., 2021)."""

    kind: Literal["adaptive"] = "adaptive"
    clipping: float = Field(
        default=0.01, gt=0, description="Longest gradient as a share of the unit's weights."
    )
    eps: float = Field(
        default=1e-3, gt=0, description="Least norm of weights reckoned with: zeros must move."
    )
    skip: tuple[str, ...] = Field(
        default=("head",),
        description="Parts left alone, by the beginning of their parameters' names: the output "
        "layer.",
    )


ClipConfig = Annotated[NoClip | ValueClip | NormClip | AdaptiveClip, Field(discriminator="kind")]


def clip_gradients(
    config: ClipConfig,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    transposed: Mapping[nn.Parameter, int] | None = None,
) -> Tensor:
    """Clip gradients in place.

    Args:
        config: how.
        named_parameters: (dotted name, parameter) pairs; those without a gradient are left alone.
        transposed: weights of transposed convolutions with their groups, as
            `layer_units.transposed_groups` finds them.
    Returns:
        The norm of all gradients before clipping, a scalar on their device.
    """
    named = [(name, p) for name, p in named_parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for _, p in named])  # type: ignore[misc]
    parameters = [p for _, p in named]
    match config:
        case NoClip():
            pass
        case ValueClip():
            nn.utils.clip_grad_value_(parameters, config.max_value)
        case NormClip():
            nn.utils.clip_grads_with_norm_(parameters, config.max_norm, norm)
        case AdaptiveClip():
            for name, parameter in named:
                if not any(name == part or name.startswith(part + ".") for part in config.skip):
                    _clip_units(config, parameter, (transposed or {}).get(parameter, 0))
    return norm


@torch.no_grad()
def _clip_units(config: AdaptiveClip, parameter: nn.Parameter, groups: int) -> None:
    assert parameter.grad is not None
    longest = config.clipping * unit_norms(parameter, groups).clamp(min=config.eps)
    norms = unit_norms(parameter.grad, groups)
    parameter.grad.mul_(torch.where(norms > longest, longest / norms, 1.0))
