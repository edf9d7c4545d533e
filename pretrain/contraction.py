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


def check_contraction(config: ContractionConfig, encoder: Encoder) -> None:
    """Refuse a penalty that does not fit the encoder.

    Raises:
        InputError: names the keys; one line.
    """
    spec = encoder.config
    if isinstance(config, NoContraction):
        return
    found = f"objective.contraction.kind: found {config.kind!r}"
    if isinstance(config, ClosedFormContraction):
        fits = isinstance(spec, DenseEncoderConfig) and len(spec.widths) == 1
        if not (fits and spec.activation in ("sigmoid", "tanh") and spec.norm == "none"):
            raise InputError(
                f"{found}, which is for a dense encoder of one layer with encoder.activation "
                "sigmoid or tanh and encoder.norm none; use kind estimate for others"
            )
    elif spec.norm == "batch":
        raise InputError(
            f"{found} with encoder.norm 'batch', under which a code depends on the other images "
            "too; use encoder.norm group, layer or none"
        )


def closed_form_norm(encoder: Encoder, code: Tensor) -> Tensor:
    """Return the squared Frobenius norm of each sample's Jacobian, [B], of a one-layer encoder.

    Args:
        encoder: dense, one layer, sigmoid or tanh, as `check_contraction` lets through.
        code: [B, K], what it gave.
    """
    linear = next(m for m in encoder.modules() if isinstance(m, nn.Linear))
    shape = encoder.input
    scale = torch.as_tensor(shape.std, dtype=code.dtype, device=code.device).reciprocal()
    scale = scale.repeat_interleave(shape.height * shape.width)
    by_unit = (linear.weight * scale).square().sum(1)
    slope = code * (1 - code) if encoder.config.activation == "sigmoid" else 1 - code.square()
    return slope.square() @ by_unit


def estimated_norm(
    encode: Callable[[Tensor], Tensor], images: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the squared Frobenius norm of each sample's Jacobian, differentiably.

    E |v J|^2 over standard normal v is the norm; each sample's code must depend on its own image
    alone.

    Args:
        encode: images [B, C, H, W] -> code [B, ...].
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
