"""What every autoencoder's loss is made of: the error of what is restored, and terms on its code.

Shapes: B rows; *I an input without the batch axis, [C, H, W] or [D]; *K a code.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from pretrain.contraction import ContractionConfig, NoContraction, contracted_code
from pretrain.corruption import CorruptionConfig, NoCorruption, chooses_pixels
from pretrain.sparsity import NoSparsity, SparsityConfig, active_share, sparsify
from training.errors import InputError
from training.randomness import StepDraws

HUBER_DELTA = 0.1
"""Where the Huber loss turns from squared to absolute, in units of the [0, 1] range."""

ErrorName = Literal["mse", "bce", "huber"]


class EmphasisConfig(BaseModel):
    """Weights of the error on corrupted and on other values (Vincent et al. 2010, section 4.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corrupted: float = Field(1.0, ge=0, description="alpha")
    others: float = Field(1.0, ge=0, description="beta")


class ReconstructionConfig(BaseModel):
    """Restore the clean input from a corrupted one (Vincent et al., 2010), by a good code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corruption: CorruptionConfig = NoCorruption()
    loss: ErrorName = Field(
        "mse",
        description="mean over values of the squared error, of the cross-entropy of values "
        f"taken as probabilities, or of the Huber error (delta {HUBER_DELTA})",
    )
    emphasis: EmphasisConfig = EmphasisConfig()
    sparsity: SparsityConfig = NoSparsity()
    contraction: ContractionConfig = NoContraction()


def coded(
    config: ReconstructionConfig,
    encode: Callable[[Tensor], Tensor],
    inputs: Tensor,
    draws: StepDraws,
    *,
    code_shape: tuple[int, ...],
    exact_norm: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
    """Return the code that the decoder gets, what is added to the error, and both as metrics.

    Args:
        config: its contraction and its sparsity.
        encode: inputs [B, *I] -> code [B, *K].
        inputs: what the encoder sees.
        draws: of the step.
        code_shape: *K.
        exact_norm: code [B, K] -> squared norm of each sample's Jacobian, [B]; only called for
            the contraction `closed_form`.
    """
    code, added, metrics = contracted_code(
        config.contraction, encode, inputs, draws, code_shape=code_shape, exact_norm=exact_norm
    )
    code, sparsity = sparsify(config.sparsity, code)
    if not isinstance(config.sparsity, NoSparsity):
        metrics["active_share"] = active_share(code)
    if sparsity is not None:
        added, metrics["sparsity"] = added + sparsity, sparsity
    return code, added, metrics


def restoration_error(
    config: ReconstructionConfig, output: Tensor, target: Tensor, hit: Tensor | None
) -> Tensor:
    """Return the mean error of what was restored, [B, *I], with the emphasis on what was hit."""
    emphasis = config.emphasis
    if emphasis.corrupted == emphasis.others or hit is None:
        return errors(config.loss, output, target, "mean")
    weights = torch.where(hit, emphasis.corrupted, emphasis.others)
    return (weights * errors(config.loss, output, target, "none")).mean()


def errors(name: ErrorName, output: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Return the error of each value, or their mean; for `bce` the outputs are logits."""
    match name:
        case "mse":
            return F.mse_loss(output, target, reduction=reduction)
        case "bce":
            return F.binary_cross_entropy_with_logits(output, target, reduction=reduction)
        case "huber":
            return F.huber_loss(output, target, reduction=reduction, delta=HUBER_DELTA)


def as_intensities(name: ErrorName, output: Tensor) -> Tensor:
    """Return an output as pictures to show; for `bce` it holds logits."""
    return torch.sigmoid(output) if name == "bce" else output


def check_emphasis(config: ReconstructionConfig, *, key: str) -> None:
    """Refuse an emphasis where no values are chosen to be corrupted, or on nothing at all.

    Raises:
        InputError: names the keys below `key`; one line.
    """
    emphasis = config.emphasis
    if emphasis.corrupted == emphasis.others == 0:
        raise InputError(f"{key}.emphasis: found 0 for all pixels; give one of them a weight")
    if emphasis.corrupted != emphasis.others and not chooses_pixels(config.corruption):
        raise InputError(
            f"{key}.emphasis: found {emphasis.corrupted:g} and {emphasis.others:g} with "
            f"{key}.corruption.kind {config.corruption.kind!r}, which chooses no pixels; use "
            "masking or salt_and_pepper, or equal weights"
        )
