"""The contractive penalty: how much the code moves where the image moves a little.

Rifai et al. 2011, "Contractive Auto-Encoders", and "Higher Order Contractive Auto-Encoder".

Shapes: B rows, C channels, H height, W width; K values of a code. The Jacobian of a sample's code
by its image, [K, C * H * W], is taken with respect to images in [0, 1].
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.encoders import DenseEncoderConfig, Encoder
from training.errors import InputError
from training.randomness import StepDraws


class NoContraction(BaseModel):
    """The code may move as it likes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none"] = "none"


class _Contraction(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(
        1e-3, gt=0, description="on the squared Frobenius norm of the Jacobian, a mean over samples"
    )


class ClosedFormContraction(_Contraction):
    """The Jacobian of one dense layer under sigmoid or tanh, exactly and without derivatives."""

    kind: Literal["closed_form"] = "closed_form"


class EstimatedContraction(_Contraction):
    """The Jacobian's norm by Hutchinson's estimate: that of its product with random vectors.

    For encoders of any depth; unbiased. One more backward pass through the encoder, and the
    derivative of that pass.
    """

    kind: Literal["estimate"] = "estimate"
    samples: int = Field(1, ge=1, le=64, description="random vectors per image")
    higher_order: float = Field(
        0.0,
        ge=0,
        description="weight, relative to the first, of how much the Jacobian itself changes when "
        "noise is added to the image: CAE+H",
    )
    noise: float = Field(0.1, gt=0, description="standard deviation of that noise")


ContractionConfig = Annotated[
    NoContraction | ClosedFormContraction | EstimatedContraction, Field(discriminator="kind")
]


def check_contraction(
    config: ContractionConfig, encoder: Encoder, *, key: str, by_stage: bool = False
) -> None:
    """Refuse a penalty that does not fit the encoder.

    Args:
        config: the penalty.
        encoder: the encoder.
        key: of the config whose `contraction` it is.
        by_stage: each stage of the encoder is contracted by itself.
    Raises:
        InputError: names the keys; one line.
    """
    spec = encoder.config
    if isinstance(config, NoContraction):
        return
    found = f"{key}.contraction.kind: found {config.kind!r}"
    if isinstance(config, ClosedFormContraction):
        fits = isinstance(spec, DenseEncoderConfig) and (by_stage or len(spec.widths) == 1)
        if not (fits and spec.activation in ("sigmoid", "tanh") and spec.norm == "none"):
            layers = "dense layers" if by_stage else "a dense encoder of one layer"
            raise InputError(
                f"{found}, which is for {layers} with encoder.activation "
                "sigmoid or tanh and encoder.norm none; use kind estimate for others"
            )
    elif spec.norm == "batch":
        raise InputError(
            f"{found} with encoder.norm 'batch', under which a code depends on the other images "
            "too; use encoder.norm group, layer or none"
        )


def contracted_code(
    config: ContractionConfig,
    encode: Callable[[Tensor], Tensor],
    inputs: Tensor,
    draws: StepDraws,
    *,
    code_shape: tuple[int, ...],
    exact_norm: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
    """Return the code of inputs [B, ...], the penalty, and the norms it is made of.

    Args:
        config: the penalty.
        encode: inputs -> code [B, *code_shape].
        inputs: without gradient.
        draws: of the step.
        code_shape: of a code, without the batch axis.
        exact_norm: code [B, K] -> squared norm of each sample's Jacobian, [B]: the closed form.
    """
    match config:
        case NoContraction():
            return encode(inputs), 0.0, {}
        case ClosedFormContraction(weight=weight):
            code = encode(inputs)
            norm = exact_norm(code).mean()
            return code, weight * norm, {"jacobian_norm": norm}
        case EstimatedContraction():
            # Second derivatives in a short precision are noise.
            with torch.autocast(inputs.device.type, enabled=False):
                return _estimate(config, encode, inputs, draws, code_shape)


def _estimate(
    config: EstimatedContraction,
    encode: Callable[[Tensor], Tensor],
    inputs: Tensor,
    draws: StepDraws,
    code_shape: tuple[int, ...],
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    vectors = draws.randn("contraction", config.samples, *code_shape).transpose(0, 1)
    code, norms, products = estimated_norm(encode, inputs, vectors)
    norm = norms.mean()
    metrics = {"jacobian_norm": norm}
    penalty = config.weight * norm
    if config.higher_order > 0:
        noise = config.noise * draws.randn("contraction/noise", *inputs.shape[1:])
        _, _, nearby = estimated_norm(encode, inputs + noise, vectors)
        change = (products - nearby).square().flatten(2).sum(2).mean()
        metrics["jacobian_change"] = change
        penalty = penalty + config.weight * config.higher_order * change
    return code, penalty, metrics


def closed_form_norm(encoder: Encoder, code: Tensor, stage: str | None = None) -> Tensor:
    """Return the squared Frobenius norm of each sample's Jacobian, [B], of one dense layer.

    Args:
        encoder: dense, sigmoid or tanh, as `check_contraction` lets through.
        code: [B, K], what the layer gave.
        stage: the layer; None: the lowest. Its Jacobian is that by its own input: by images in
            [0, 1] for the lowest.
    """
    lowest = encoder.stage_names[0]
    block = encoder.blocks[stage or lowest]
    weight = next(m for m in block.modules() if isinstance(m, nn.Linear)).weight
    if stage in (None, lowest):
        shape = encoder.input
        scale = torch.as_tensor(shape.std, dtype=code.dtype, device=code.device).reciprocal()
        weight = weight * scale.repeat_interleave(shape.height * shape.width)
    by_unit = weight.square().sum(1)
    slope = code * (1 - code) if encoder.config.activation == "sigmoid" else 1 - code.square()
    return slope.square() @ by_unit


def estimated_norm(
    encode: Callable[[Tensor], Tensor], images: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the squared Frobenius norm of each sample's Jacobian, differentiably.

    E |v J|^2 over standard normal v is the norm; each sample's code must depend on its own image
    alone.

    Args:
        encode: images [B, C, H, W], or other inputs -> code [B, ...].
        images: without gradient.
        vectors: standard normal, [S, B, ...] for codes [B, ...].
    Returns:
        The code, the estimate [B], and the products v J, [S, B, C, H, W].
    """
    images = images.detach().requires_grad_(True)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention is differentiable once
        code = encode(images)
    products = torch.stack(
        [
            torch.autograd.grad(code, images, vector.to(code.dtype), create_graph=True)[0]
            for vector in vectors
        ]
    )
    return code, products.square().flatten(2).sum(2).mean(0), products
