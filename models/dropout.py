"""Dropout by kind, and stochastic depth: what removes activations at random while training.

Shapes: B batch, C channels, H height, W width, D features. Everything draws from torch's global
generator.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

# What SELU tends to far below 0: minus its scale times its alpha.
_SELU_LOWEST = -1.0507009873554805 * 1.6732632423543772


class _Dropout(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(0.1, ge=0, lt=1, description="chance that an activation is dropped")


class PlainDropout(_Dropout):
    """Zero each activation by itself (Srivastava et al. 2014)."""

    kind: Literal["plain"] = "plain"


class SpatialDropout(_Dropout):
    """Zero whole channels [H, W] of a sample (Tompson et al. 2015)."""

    kind: Literal["spatial"] = "spatial"


class AlphaDropout(_Dropout):
    """Set activations to SELU's lowest value, keeping mean and variance (Klambauer et al. 2017)."""

    kind: Literal["alpha"] = "alpha"


def _from_rate(value: Any) -> Any:
    return {"kind": "plain", "rate": value} if isinstance(value, int | float) else value


def _to_rate(value: Any, dump: SerializerFunctionWrapHandler) -> Any:
    return value.rate if isinstance(value, PlainDropout) else dump(value)


_AnyDropout = PlainDropout | SpatialDropout | AlphaDropout
DropoutConfig = Annotated[
    _AnyDropout,
    Field(discriminator="kind"),
    BeforeValidator(_from_rate, json_schema_input_type=float | _AnyDropout),
    WrapSerializer(_to_rate),
]
"""A mapping by `kind`; a plain number stands for plain dropout of that rate, also where written."""


class Dropout(nn.Dropout):
    """`nn.Dropout`, drawn on a CPU by `torch.rand`: in half the time of its own draw."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        kept = torch.rand_like(input, dtype=torch.float32) >= self.p
        return input * kept.to(input.dtype).mul_(1 / (1 - self.p))


class _AlphaDropoutLayer(_DropoutNd):
    """Alpha dropout; torch's own gives NaN where 2.13 compiles it behind batch norm and SELU."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        kept = torch.rand_like(input, dtype=torch.float32) >= self.p
        scale = ((1 - self.p) * (1 + self.p * _SELU_LOWEST**2)) ** -0.5
        return torch.where(kept, input, _SELU_LOWEST) * scale - self.p * _SELU_LOWEST * scale


def make_dropout(config: _AnyDropout) -> nn.Module | None:
    """The dropout layer of a config; None for rate 0. `spatial` is for [B, C, H, W] only."""
    if config.rate == 0:
        return None
    match config:
        case PlainDropout(rate=rate):
            return Dropout(rate)
        case SpatialDropout(rate=rate):
            return nn.Dropout2d(rate)
        case AlphaDropout(rate=rate):
            return _AlphaDropoutLayer(rate)


class StochasticDepth(_DropoutNd):
    """Drop a residual branch [B, ...] from whole samples (Huang et al. 2016).

    What is kept is divided by its chance to be, so that nothing changes in eval mode.
    """

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return branch
        shape = (len(branch), *(1,) * (branch.dim() - 1))
        kept = torch.rand(shape, device=branch.device) >= self.p
        return branch * (kept.to(branch.dtype) / (1 - self.p))


def dropout_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of `module` that draw while training: dropout and stochastic depth, above 0."""
    return [part for part in module.modules() if isinstance(part, _DropoutNd) and part.p > 0]
