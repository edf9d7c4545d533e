"""Codes of which few units are active at a time: by a penalty, or by keeping only the largest.

Shapes: B rows, U units (channels, or features of a dense code), P positions (1 for a dense code).
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.encoders import Encoder
from training.errors import InputError


class _Sparsity(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NoSparsity(_Sparsity):
    """The code as it is."""

    kind: Literal["none"] = "none"


class L1Sparsity(_Sparsity):
    """Adds the mean absolute activation, times a weight."""

    kind: Literal["l1"] = "l1"
    weight: float = Field(1e-3, gt=0)


class KLSparsity(_Sparsity):
    """Adds the divergence of each unit's mean activation from a target rate (Ng 2011; Lee 2008).

    Of Bernoulli variables with these means, summed over units: the code must lie in (0, 1).
    """

    kind: Literal["kl"] = "kl"
    weight: float = Field(1e-3, gt=0)
    target: float = Field(0.05, gt=0, lt=1, description="mean activation that is aimed at")


class KSparsity(_Sparsity):
    """Only the largest units of each sample and position stay (Makhzani & Frey 2013).

    The encoder that is exported keeps all of them: the paper's own advice is a larger share then.
    """

    kind: Literal["k_sparse"] = "k_sparse"
    share: float = Field(0.1, gt=0, lt=1, description="of the units that stays, rounded up")


class WinnerTakeAll(_Sparsity):
    """Only each unit's largest position stays, and of these the largest over the batch.

    Makhzani & Frey 2015. A dense code has no positions: there only the batch counts.
    """

    kind: Literal["winner_take_all"] = "winner_take_all"
    lifetime: float = Field(
        0.2, gt=0, le=1, description="share of the samples in which a unit may be active; 1: all"
    )


SparsityConfig = Annotated[
    NoSparsity | L1Sparsity | KLSparsity | KSparsity | WinnerTakeAll, Field(discriminator="kind")
]

_SMALLEST = 1e-6


def check_sparsity(
    config: SparsityConfig, encoder: Encoder, *, key: str, stage: str | None = None
) -> None:
    """Refuse a target activation for codes that are no rates, and a share of less than one unit.

    Args:
        config: how codes are made sparse.
        encoder: gives them.
        key: of the config whose `sparsity` it is.
        stage: gives the codes; None: the last.
    Raises:
        InputError: names the keys; one line.
    """
    activation = encoder.config.activation
    units = encoder.output_shapes[stage or encoder.stage_names[-1]][0]
    if isinstance(config, KSparsity) and config.share * units < 1:
        raise InputError(
            f"{key}.sparsity.share: found {config.share:g} of a code of {units} units, which is "
            f"less than one; give {1 / units:.2g} or more, or a wider stage (encoder.widths)"
        )
    if isinstance(config, KLSparsity) and activation != "sigmoid":
        raise InputError(
            f"{key}.sparsity.kind: found 'kl' with encoder.activation {activation!r}, whose "
            "values are no rates between 0 and 1; use encoder.activation sigmoid, or sparsity l1"
        )


def sparsify(config: SparsityConfig, code: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the code that the decoder gets, and what is added to the loss.

    Args:
        config: how.
        code: [B, U] or [B, U, H, W].
    Returns:
        The code, with the units zeroed that do not stay, and a scalar; None where nothing is added.
    """
    match config:
        case NoSparsity():
            return code, None
        case L1Sparsity(weight=weight):
            return code, weight * code.abs().mean()
        case KLSparsity(weight=weight, target=target):
            return code, weight * kl_from_target(_by_unit(code).mean((0, 2)), target).sum()
        case KSparsity(share=share):
            return _largest_units(code, share), None
        case WinnerTakeAll(lifetime=lifetime):
            return _winners(code, lifetime), None


def kl_from_target(rates: Tensor, target: float) -> Tensor:
    """Return KL(target || rate) of Bernoulli variables for each rate [U] in [0, 1]."""
    rates = rates.clamp(_SMALLEST, 1 - _SMALLEST)
    goal = torch.as_tensor(target, device=rates.device, dtype=rates.dtype)
    return goal * (goal / rates).log() + (1 - goal) * ((1 - goal) / (1 - rates)).log()


def active_share(code: Tensor) -> Tensor:
    """Return the share of a code's values that are not zero."""
    return (code != 0).float().mean()


def _by_unit(code: Tensor) -> Tensor:
    """Return [B, U, P]."""
    return code.flatten(2) if code.ndim > 2 else code.unsqueeze(2)


def _largest_units(code: Tensor, share: float) -> Tensor:
    count = max(1, -int(-share * code.shape[1] // 1))
    least = code.topk(count, dim=1).values[:, -1:]
    return code * (code >= least)


def _winners(code: Tensor, lifetime: float) -> Tensor:
    values = _by_unit(code)
    best = values.amax(2, keepdim=True)  # [B, U, 1]
    count = max(1, round(lifetime * len(code)))
    least = best.topk(count, dim=0).values[-1:]
    kept = (values >= best) & (best >= least)
    return (values * kept).view_as(code)
