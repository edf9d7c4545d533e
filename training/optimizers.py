"""Optimizers by kind."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from training.errors import InputError
from training.lamb import LAMB
from training.lbfgs import LBFGS
from training.lion import Lion
from training.newton_cg import NewtonCG
from training.parameter_groups import norm_parameters as norm_parameters
from training.parameter_groups import parameter_groups


class _OptimizerBase(BaseModel):
    """What all kinds share.

    Attributes:
        needs_closure: the optimizer evaluates the loss of the whole batch itself: its
            `step(closure)` takes a function that computes the differentiable loss afresh.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_closure: ClassVar[bool] = False


_Decay = Annotated[
    float, Field(ge=0, description="Weight decay; never on biases, norms and other vectors.")
]
_Rate = Annotated[float, Field(gt=0, description="Full learning rate; the schedule scales it.")]
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_Betas = Annotated[
    tuple[_Fraction, _Fraction],
    Field(description="Decay of the running mean and mean square of gradients."),
]


class SGDConfig(_OptimizerBase):
    """Plain stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    lr: _Rate = 0.1
    weight_decay: _Decay = 0.0


class _MomentumBase(_OptimizerBase):
    lr: _Rate = 0.05
    weight_decay: _Decay = 0.0
    momentum: float = Field(default=0.9, gt=0, lt=1)


class MomentumConfig(_MomentumBase):
    """Stochastic gradient descent with momentum (Polyak, 1964)."""

    kind: Literal["momentum"] = "momentum"


class NesterovConfig(_MomentumBase):
    """Momentum that looks one step ahead (Nesterov, 1983; Sutskever et al., 2013)."""

    kind: Literal["nesterov"] = "nesterov"


class AdagradConfig(_OptimizerBase):
    """Rates that fall with the sum of squared gradients (Duchi et al., 2011)."""

    kind: Literal["adagrad"] = "adagrad"
    lr: _Rate = 1e-2
    weight_decay: _Decay = 0.0
    eps: _Positive = 1e-10


class AdadeltaConfig(_OptimizerBase):
    """Steps in units of recent steps (Zeiler, 2012)."""

    kind: Literal["adadelta"] = "adadelta"
    lr: _Rate = 1.0
    weight_decay: _Decay = 0.0
    rho: _Fraction = Field(default=0.9, description="Decay of both running mean squares.")
    eps: _Positive = 1e-6


class RMSpropConfig(_OptimizerBase):
    """Gradients over their running root mean square (Hinton, 2012)."""

    kind: Literal["rmsprop"] = "rmsprop"
    lr: _Rate = 1e-3
    weight_decay: _Decay = 0.0
    alpha: _Fraction = Field(default=0.99, description="Decay of the running mean square.")
    momentum: _Fraction = 0.0
    eps: _Positive = 1e-8


class _AdamBase(_OptimizerBase):
    betas: _Betas = (0.9, 0.999)
    eps: _Positive = 1e-8


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


class NAdamConfig(_AdamBase):
    """Adam with Nesterov's momentum (Dozat, 2016); weight decay is added to the gradient."""

    kind: Literal["nadam"] = "nadam"
    lr: _Rate = 2e-3
    weight_decay: _Decay = 0.0
    momentum_decay: float = Field(
        default=4e-3, ge=0, description="How slowly the momentum rises to its full value."
    )


class LambConfig(_OptimizerBase):
    """LAMB for large batches (You et al., 2020); decoupled weight decay."""

    kind: Literal["lamb"] = "lamb"
    lr: _Rate = Field(default=2e-3, description="Length of a step as a share of each weight's.")
    weight_decay: _Decay = 0.01
    betas: _Betas = (0.9, 0.999)
    eps: _Positive = 1e-6


class LionConfig(_OptimizerBase):
    """Lion (Chen et al., 2023); wants a tenth of AdamW's rate and ten times its decay."""

    kind: Literal["lion"] = "lion"
    lr: _Rate = 1e-4
    weight_decay: _Decay = 0.5
    betas: tuple[_Fraction, _Fraction] = Field(
        default=(0.9, 0.99),
        description="Weight of the momentum in the sign taken, and its own decay.",
    )


class LBFGSConfig(_OptimizerBase):
    """L-BFGS with a strong Wolfe line search, on the whole batch (Nocedal & Wright, 2006)."""

    needs_closure: ClassVar[bool] = True

    kind: Literal["lbfgs"] = "lbfgs"
    lr: _Rate = Field(default=1.0, description="First length that each line search tries.")
    weight_decay: _Decay = 0.0
    max_iter: int = Field(default=20, ge=1, description="Iterations in one step.")
    history_size: int = Field(default=10, ge=1, description="Past moves that are remembered.")


class NewtonCGConfig(_OptimizerBase):
    """Truncated Newton with a line search, on the whole batch (Nocedal & Wright, 2006)."""

    needs_closure: ClassVar[bool] = True

    kind: Literal["newton_cg"] = "newton_cg"
    lr: _Rate = Field(default=1.0, description="First length that the line search tries.")
    weight_decay: _Decay = 0.0
    damping: float = Field(default=1e-4, ge=0, description="Added to the Hessian's diagonal.")
    max_cg_iter: int = Field(
        default=50, ge=1, description="Products with the Hessian in one step, at the most."
    )
    cg_tolerance: float = Field(
        default=0.1, gt=0, lt=1, description="Largest relative residual of Newton's equations."
    )


OptimizerConfig = Annotated[
    SGDConfig
    | MomentumConfig
    | NesterovConfig
    | AdagradConfig
    | AdadeltaConfig
    | RMSpropConfig
    | AdamConfig
    | AdamWConfig
    | NAdamConfig
    | LambConfig
    | LionConfig
    | LBFGSConfig
    | NewtonCGConfig,
    Field(discriminator="kind"),
]


def build_optimizer(
    config: OptimizerConfig,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr_factors: Mapping[str, float] | None = None,
    norms: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Build an optimizer over the groups that `parameter_groups` makes of the same arguments.

    Where torch has a fused implementation, it is used: it computes a step in one pass.

    Raises:
        ValueError: no parameters.
        InputError: a prefix in `lr_factors` that matches no name, or factors for an optimizer
            that has one rate for all.
    """
    if config.needs_closure and set((lr_factors or {}).values()) - {1.0}:
        raise InputError(
            f"optimizer.kind: found {config.kind!r} with learning rates by part, but it moves all "
            "parameters along one line; use another kind, such as 'adamw', or one rate"
        )
    groups = parameter_groups(
        named_parameters,
        lr=config.lr,
        weight_decay=config.weight_decay,
        lr_factors=lr_factors,
        norms=norms,
    )
    match config:
        case SGDConfig():
            return torch.optim.SGD(groups, fused=True)
        case MomentumConfig() | NesterovConfig():
            return _build_momentum(config, groups)
        case AdagradConfig():
            # Fused on accelerators only by torch's latest releases.
            on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
            how = {"fused": True} if on_cpu else {"foreach": True}
            return torch.optim.Adagrad(groups, eps=config.eps, **how)
        case AdadeltaConfig():
            return torch.optim.Adadelta(groups, rho=config.rho, eps=config.eps, foreach=True)
        case RMSpropConfig():
            return torch.optim.RMSprop(
                groups, alpha=config.alpha, momentum=config.momentum, eps=config.eps, foreach=True
            )
        case AdamConfig():
            return torch.optim.Adam(groups, betas=config.betas, eps=config.eps, fused=True)
        case AdamWConfig():
            return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
        case NAdamConfig():
            return torch.optim.NAdam(
                groups,
                betas=config.betas,
                eps=config.eps,
                momentum_decay=config.momentum_decay,
                foreach=True,
            )
        case LambConfig():
            return LAMB(groups, betas=config.betas, eps=config.eps)
        case LionConfig():
            return Lion(groups, betas=config.betas)
        case LBFGSConfig():
            return LBFGS(groups, max_iter=config.max_iter, history_size=config.history_size)
        case NewtonCGConfig():
            return NewtonCG(
                groups,
                damping=config.damping,
                max_cg_iter=config.max_cg_iter,
                cg_tolerance=config.cg_tolerance,
            )


def _build_momentum(
    config: MomentumConfig | NesterovConfig, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    nesterov = isinstance(config, NesterovConfig)
    optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=nesterov, fused=True)
    # The fused step fails where only some parameters have had a gradient, and so a buffer. One
    # of zeros becomes the first gradient, as a missing one does.
    for group in groups:
        for p in group["params"]:
            buffer = torch.zeros_like(p, memory_format=torch.preserve_format)
            optimizer.state[p]["momentum_buffer"] = buffer
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
