"""What the kinds of encoders share: their common config and what their stages are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.dropout import DropoutConfig, PlainDropout
from models.initialization import Constant, InitializerConfig, Lsuv, Zeros
from models.layers import ActivationName, NormName

Shape = tuple[int, ...]
"""Of a stage's output, without the batch axis: (C, H, W) or (D,)."""


class StageLayers(nn.Sequential):
    """Layers in order. Unlike `nn.Sequential` it can be compiled in place by itself."""

    # The compiler skips a frame of torch's own that it is to start at, but not this one.
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)


Stage = tuple[str, StageLayers, Shape]
"""A stage's name, its layers, and the shape of what they give."""


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, so that padding is the same on both sides, got {value}")
    return value


# The upper bounds keep a spec that was read from a file from asking for absurd sizes.
Width = Annotated[int, Field(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)]
KernelSize = Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)]


class CommonEncoderConfig(BaseModel):
    """What every kind of encoder can be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: NormName = "batch"
    activation: ActivationName = "relu"
    initializer: InitializerConfig | None = Field(
        None,
        description="how weights are drawn: a name, or its kind and values; null follows the "
        "activation",
    )
    dropout: DropoutConfig = Field(
        PlainDropout(rate=0.0),
        description="the chance that an activation is zeroed, or a kind of dropout and its rate",
    )
    spectral_norm: bool = Field(
        False,
        description="divide every weight by its largest singular value while training (Miyato et "
        "al. 2018); the artifact holds the weights so divided",
    )

    @model_validator(mode="after")
    def _weights_have_a_scale(self) -> "CommonEncoderConfig":
        if self.spectral_norm:
            match self.initializer:
                case Zeros() | Constant(value=0) | Lsuv():
                    raise ValueError(
                        f"found initializer {self.initializer.kind} with spectral_norm, which "
                        "divides by the weights' own scale: take another initializer"
                    )
        return self
