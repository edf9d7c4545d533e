"""Weight initialization by name, with the fans of dense, convolutional and transposed layers."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    WrapSerializer,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from models.layers import NORM_LAYERS, ActivationName

TRUNCATED_AT = 2.0
"""Where a truncated normal is cut, in standard deviations."""

_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu")


class _Initializer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Zeros(_Initializer):
    """Every weight 0. A whole network of zeros does not learn; a residual branch does."""

    kind: Literal["zeros"] = "zeros"


class Constant(_Initializer):
    """Every weight the same; the units of a layer then stay alike until noise parts them."""

    kind: Literal["constant"] = "constant"
    value: FiniteFloat = 0.01


class Normal(_Initializer):
    """Independent normal weights of one standard deviation, whatever the fans."""

    kind: Literal["normal"] = "normal"
    std: FiniteFloat = Field(0.01, gt=0, description="0.01 is that of Krizhevsky et al. 2012")


class Uniform(_Initializer):
    """Independent uniform weights in [-bound, bound), whatever the fans."""

    kind: Literal["uniform"] = "uniform"
    bound: FiniteFloat = Field(0.05, gt=0)


class TruncatedNormal(_Initializer):
    """Normal weights drawn again where they lie beyond ±2 std."""

    kind: Literal["truncated_normal"] = "truncated_normal"
    std: FiniteFloat = Field(
        0.02,
        gt=0,
        description="of the normal before the cut, not corrected: the weights have 0.88 of it",
    )


class LeCunNormal(_Initializer):
    """Variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp"); suits SELU."""

    kind: Literal["lecun_normal"] = "lecun_normal"


class LeCunUniform(_Initializer):
    """Variance 1 / fan_in, uniform."""

    kind: Literal["lecun_uniform"] = "lecun_uniform"


class GlorotNormal(_Initializer):
    """Variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010); suits tanh and sigmoid."""

    kind: Literal["glorot_normal"] = "glorot_normal"


class GlorotUniform(_Initializer):
    """Variance 2 / (fan_in + fan_out), uniform."""

    kind: Literal["glorot_uniform"] = "glorot_uniform"


class HeNormal(_Initializer):
    """Variance 2 / fan_in (He et al. 2015, "Delving Deep into Rectifiers")."""

    kind: Literal["he_normal"] = "he_normal"


class HeUniform(_Initializer):
    """Variance 2 / fan_in, uniform."""

    kind: Literal["he_uniform"] = "he_uniform"


class Orthogonal(_Initializer):
    """Orthonormal rows, or columns where there are more outputs than inputs (Saxe et al. 2014)."""

    kind: Literal["orthogonal"] = "orthogonal"
    gain: FiniteFloat | None = Field(
        None, gt=0, description="null follows the activation: √2 for rectifiers, 1 for the others"
    )


class Dirac(_Initializer):
    """A convolution that passes channel i on as channel i; the identity matrix if dense."""

    kind: Literal["dirac"] = "dirac"


class Identity(_Initializer):
    """The identity matrix if dense (Le et al. 2015); a convolution as with `dirac`."""

    kind: Literal["identity"] = "identity"


class Lsuv(_Initializer):
    """Orthonormal weights, then each layer scaled to unit output variance on a batch of images.

    Mishkin and Matas 2016, "All you need is a good init". Their iteration is not needed: without
    a bias a layer is linear in its weights, so that one division is exact.
    """

    kind: Literal["lsuv"] = "lsuv"


_AnyInitializer = (
    Zeros
    | Constant
    | Normal
    | Uniform
    | TruncatedNormal
    | LeCunNormal
    | LeCunUniform
    | GlorotNormal
    | GlorotUniform
    | HeNormal
    | HeUniform
    | Orthogonal
    | Dirac
    | Identity
    | Lsuv
)

InitializerName = Literal[
    "zeros",
    "constant",
    "normal",
    "uniform",
    "truncated_normal",
    "lecun_normal",
    "lecun_uniform",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "orthogonal",
    "dirac",
    "identity",
    "lsuv",
]


def _from_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _to_name(value: Any, dump: SerializerFunctionWrapHandler) -> Any:
    dumped = dump(value)
    return dumped["kind"] if dumped.keys() == {"kind"} else dumped


InitializerConfig = Annotated[
    _AnyInitializer,
    Field(discriminator="kind"),
    BeforeValidator(_from_name, json_schema_input_type=InitializerName | _AnyInitializer),
    WrapSerializer(_to_name),
]
"""A mapping by `kind`; a plain name stands for `{kind: NAME}`, also where it is written."""

_ADAPTER: TypeAdapter[_AnyInitializer] = TypeAdapter(InitializerConfig)


def default_initializer(activation: ActivationName) -> InitializerName:
    """The initializer that keeps the size of activations before `activation`.

    He (normal) before relu, leaky_relu, elu, gelu and silu; LeCun (normal) before selu, whose
    fixed point asks for variance 1 / fan_in (Klambauer et al. 2017); Glorot (uniform) before
    tanh, sigmoid and identity.
    """
    if activation in _RECTIFIERS:
        return "he_normal"
    return "lecun_normal" if activation == "selu" else "glorot_uniform"


def fans(layer: nn.Module) -> tuple[float, float]:
    """(fan_in, fan_out) of a Linear, ConvNd or ConvTransposeNd layer.

    fan_in is the number of inputs that one output sums: in_channels / groups × kernel area for a
    convolution. An output of a transposed convolution with stride s sums, on average, only
    in_channels / groups × kernel area / s^dims of them. fan_out is out_channels / groups × kernel
    area for both kinds: of a strided convolution an input feeds fewer outputs, but there are as
    many times more inputs than outputs, so that the norm of the whole gradient asks for this.

    Raises:
        TypeError: for any other layer.
    """
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, _ConvNd):
        area = math.prod(layer.kernel_size)
        fan_in = layer.in_channels / layer.groups * area
        if isinstance(layer, _ConvTransposeNd):
            fan_in /= math.prod(layer.stride)
        return fan_in, layer.out_channels / layer.groups * area
    raise TypeError(f"no fans are defined for {type(layer).__name__}")


def _draw_weight(
    layer: nn.Linear | _ConvNd,
    initializer: _AnyInitializer,
    activation: ActivationName,
    generator: torch.Generator,
) -> None:
    weight = layer.weight
    fan_in, fan_out = fans(layer)
    match initializer:
        case Zeros():
            weight.zero_()
        case Constant(value=value):
            weight.fill_(value)
        case Normal(std=std):
            weight.normal_(0.0, std, generator=generator)
        case Uniform(bound=bound):
            weight.uniform_(-bound, bound, generator=generator)
        case TruncatedNormal(std=std):
            cut = TRUNCATED_AT * std
            nn.init.trunc_normal_(weight, 0.0, std, -cut, cut, generator=generator)
        case LeCunNormal():
            _draw_normal(weight, 1 / fan_in, generator)
        case LeCunUniform():
            _draw_uniform(weight, 1 / fan_in, generator)
        case GlorotNormal():
            _draw_normal(weight, 2 / (fan_in + fan_out), generator)
        case GlorotUniform():
            _draw_uniform(weight, 2 / (fan_in + fan_out), generator)
        case HeNormal():
            _draw_normal(weight, 2 / fan_in, generator)
        case HeUniform():
            _draw_uniform(weight, 2 / fan_in, generator)
        case Orthogonal(gain=gain):
            default = math.sqrt(2) if activation in _RECTIFIERS else 1.0
            _draw_orthogonal(layer, default if gain is None else gain, generator)
        case Lsuv():
            _draw_orthogonal(layer, 1.0, generator)
        case Dirac() | Identity():
            if isinstance(layer, nn.Linear):
                nn.init.eye_(weight)
            else:
                nn.init.dirac_(weight, layer.groups)


def _draw_normal(weight: Tensor, variance: float, generator: torch.Generator) -> None:
    weight.normal_(0.0, math.sqrt(variance), generator=generator)


def _draw_uniform(weight: Tensor, variance: float, generator: torch.Generator) -> None:
    bound = math.sqrt(3.0 * variance)
    weight.uniform_(-bound, bound, generator=generator)


def _draw_orthogonal(layer: nn.Linear | _ConvNd, gain: float, generator: torch.Generator) -> None:
    """Make the map from the inputs that an output sums to the outputs of a group orthogonal."""
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight, gain, generator)
        return
    if isinstance(layer, _ConvTransposeNd):
        # Only one in prod(stride) of the weights of a row meets an input at a time.
        gain *= math.sqrt(math.prod(layer.stride))
    for group in layer.weight.chunk(layer.groups):
        rows = group.transpose(0, 1) if isinstance(layer, _ConvTransposeNd) else group
        drawn = torch.empty(rows.shape)
        rows.copy_(nn.init.orthogonal_(drawn, gain, generator))


@torch.no_grad()
def initialize(
    module: nn.Module,
    initializer: _AnyInitializer | InitializerName | None,
    activation: ActivationName,
    generator: torch.Generator,
) -> None:
    """Draw all weights below `module` in the order of its layers; biases 0, norms to the identity.

    Of `lsuv` this is the orthonormal draw alone; `models.lsuv.lsuv_` does the rest.

    Args:
        initializer: a config or a name, or None for the one that suits `activation`.
        activation: the activation that follows the layers; used only where `initializer` is None
            or leaves its gain to it.
        generator: a CPU generator; the only source of randomness.
    """
    config = _ADAPTER.validate_python(initializer or default_initializer(activation))
    for layer in module.modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            _draw_weight(layer, config, activation, generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, NORM_LAYERS):
            layer.reset_parameters()
