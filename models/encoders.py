"""Encoders: ordered, named stages from images to features, lowest first.

Shapes: B batch, C channels, H height, W width, D features. Images are float in [0, 1], BCHW.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)
from torch import Tensor, nn

from models.errors import ModelError
from models.initialization import InitializerConfig, Lsuv, initialize
from models.layers import ActivationName, NormName, layer_group, shifts
from models.lsuv import lsuv_

Shape = tuple[int, ...]

# The upper bounds keep a spec that was read from a file from asking for absurd sizes.
Width = Annotated[int, Field(ge=1, le=65536)]
Side = Annotated[int, Field(ge=1, le=16384)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)]


class InputContract(BaseModel):
    """What images an encoder takes; it normalizes them to (image - mean) / std per channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, le=1024)
    height: Side
    width: Side
    mean: tuple[FiniteFloat, ...] = Field(description="per channel, in units of the value range")
    std: tuple[FiniteFloat, ...] = Field(description="per channel, above 0, in the same units")
    value_range: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> "InputContract":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one value for each of the {self.channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        return self


class _EncoderConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: NormName = "batch"
    activation: ActivationName = "relu"
    initializer: InitializerConfig | None = Field(
        None,
        description="how weights are drawn: a name, or its kind and values; null follows the "
        "activation",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="chance that an activation is zeroed")


class ConvEncoderConfig(_EncoderConfig):
    """Strided convolutions: each stage halves height and width (rounded up)."""

    kind: Literal["conv"] = "conv"
    widths: Widths = Field((32, 64, 128), description="channels of stage1, stage2, ...")
    blocks: int = Field(
        1, ge=1, le=64, description="convolutions per stage; the first has stride 2, the others 1"
    )
    kernel_size: int = Field(3, ge=1, le=63, description="odd, in pixels")
    stem: Width | None = Field(
        None, description="channels of an unstrided convolution below stage1; null for none"
    )

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, so that padding is the same on both sides, got {value}")
        return value


class DenseEncoderConfig(_EncoderConfig):
    """Fully connected layers on the flattened image."""

    kind: Literal["dense"] = "dense"
    widths: Widths = Field((512, 256), description="units of layer1, layer2, ...")

    @field_validator("norm")
    @classmethod
    def _without_positions(cls, value: NormName) -> NormName:
        if value == "instance":
            raise ValueError("instance normalizes over positions, of which dense layers have none")
        return value


EncoderConfig = Annotated[ConvEncoderConfig | DenseEncoderConfig, Field(discriminator="kind")]


def conv_layers(
    config: ConvEncoderConfig, in_channels: int, out_channels: int, *, stride: int
) -> list[nn.Module]:
    """One convolution with same padding, its norm, activation and dropout."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        config.kernel_size,
        stride,
        padding=config.kernel_size // 2,
        bias=not shifts(config.norm),
    )
    return layer_group(
        conv,
        out_channels,
        norm=config.norm,
        activation=config.activation,
        spatial=True,
        dropout=config.dropout,
    )


def _conv_stages(
    config: ConvEncoderConfig, contract: InputContract
) -> Iterator[tuple[str, nn.Module, Shape]]:
    channels, height, width = contract.channels, contract.height, contract.width
    if config.stem is not None:
        layers = conv_layers(config, channels, config.stem, stride=1)
        channels = config.stem
        yield "stem", nn.Sequential(*layers), (channels, height, width)
    for number, out_channels in enumerate(config.widths, start=1):
        layers = conv_layers(config, channels, out_channels, stride=2)
        for _ in range(config.blocks - 1):
            layers += conv_layers(config, out_channels, out_channels, stride=1)
        channels, height, width = out_channels, (height + 1) // 2, (width + 1) // 2
        yield f"stage{number}", nn.Sequential(*layers), (channels, height, width)


def _dense_stages(
    config: DenseEncoderConfig, contract: InputContract
) -> Iterator[tuple[str, nn.Module, Shape]]:
    features = contract.channels * contract.height * contract.width
    for number, units in enumerate(config.widths, start=1):
        linear = nn.Linear(features, units, bias=not shifts(config.norm))
        layers = layer_group(
            linear,
            units,
            norm=config.norm,
            activation=config.activation,
            spatial=False,
            dropout=config.dropout,
        )
        if number == 1:
            layers.insert(0, nn.Flatten())
        features = units
        yield f"layer{number}", nn.Sequential(*layers), (units,)


class Encoder(nn.Module):
    """Named stages in order, lowest first, behind the normalization of the input contract.

    A stage can be frozen: its parameters get no gradient and it stays in eval mode (batch-norm
    statistics and dropout included) whatever `train()` is called on it or on a parent.
    Weights are torch's default draw; `build_encoder` draws them as the config says.
    """

    def __init__(self, config: EncoderConfig, input: InputContract) -> None:
        super().__init__()
        self.config = config
        self.input = input
        self.blocks = nn.ModuleDict()
        self.output_shapes: dict[str, Shape] = {}
        """Shape of each stage's output, without the batch axis: (C, H, W) or (D,)."""
        stages = (
            _conv_stages(config, input)
            if isinstance(config, ConvEncoderConfig)
            else _dense_stages(config, input)
        )
        for name, stage, shape in stages:
            self.blocks[name] = stage
            self.output_shapes[name] = shape
        self.stage_names: list[str] = list(self.output_shapes)
        self._frozen: frozenset[str] = frozenset()
        mean = torch.tensor(input.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(input.std, dtype=torch.float64).view(1, -1, 1, 1)
        # Not in the state dict: the input contract is their only source.
        self.register_buffer("_scale", (1 / std).float(), persistent=False)
        self.register_buffer("_shift", (-mean / std).float(), persistent=False)
        self._scale: Tensor
        self._shift: Tensor

    def forward(self, images: Tensor, upto: str | None = None) -> Tensor:
        """Features of the stage `upto` (default: the last) of images [B, C, H, W] in [0, 1].

        Raises:
            ModelError: images of another shape or of integers, or an unknown stage.
        """
        last = self._stage(upto)
        features = self._normalize(images)
        for name, stage in self.blocks.items():
            features = stage(features)
            if name == last:
                break
        return features

    def stages(self, images: Tensor, upto: str | None = None) -> dict[str, Tensor]:
        """Features of every stage up to `upto` (default: the last) by name, lowest first.

        Raises:
            ModelError: as `forward`.
        """
        last = self._stage(upto)
        features = self._normalize(images)
        by_stage: dict[str, Tensor] = {}
        for name, stage in self.blocks.items():
            by_stage[name] = features = stage(features)
            if name == last:
                break
        return by_stage

    def stage_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each stage, lowest stage first."""
        return {name: list(stage.parameters()) for name, stage in self.blocks.items()}

    @property
    def frozen_stages(self) -> list[str]:
        """Names of the frozen stages, lowest first."""
        return [name for name in self.stage_names if name in self._frozen]

    def freeze(self, upto: str | None = None) -> None:
        """Freeze the stages up to and including `upto` (default: all). Others stay as they are."""
        self._set_frozen(
            self._frozen | set(self.stage_names[: self.stage_names.index(self._stage(upto)) + 1])
        )

    def unfreeze(self, from_stage: str | None = None) -> None:
        """Let `from_stage` (default: the lowest) and all stages above it train again."""
        lowest = self.stage_names[0] if from_stage is None else self._stage(from_stage)
        self._set_frozen(self._frozen & set(self.stage_names[: self.stage_names.index(lowest)]))

    def train(self, mode: bool = True) -> "Encoder":
        """Set training mode for all stages that are not frozen."""
        super().train(mode)
        for name in self._frozen:
            self.blocks[name].eval()
        return self

    def _set_frozen(self, frozen: frozenset[str]) -> None:
        self._frozen = frozenset(frozen)
        for name, stage in self.blocks.items():
            stage.requires_grad_(name not in self._frozen)
        self.train(self.training)

    def _stage(self, name: str | None) -> str:
        if name is None:
            return self.stage_names[-1]
        if name not in self.output_shapes:
            raise ModelError(f"no stage {name!r}: the stages are {', '.join(self.stage_names)}")
        return name

    def _normalize(self, images: Tensor) -> Tensor:
        if images.dim() != 4:
            raise ModelError(f"images must be [B, C, H, W], got shape {tuple(images.shape)}")
        check_images(self.input, *images.shape[1:])
        if not images.is_floating_point():
            raise ModelError(f"images must be float in [0, 1], got {images.dtype}: divide by 255")
        return torch.addcmul(self._shift, images, self._scale)


def build_encoder(
    config: EncoderConfig, input: InputContract, *, seed: int, images: Tensor | None = None
) -> Encoder:
    """An encoder with weights drawn from `seed` alone; torch's global generator is left alone.

    Args:
        images: [B, C, H, W] in [0, 1], for the initializer `lsuv`; others do not look at them.
    Raises:
        ModelError: `lsuv` without images, or with images that are all the same.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(config, input)
    generator = torch.Generator().manual_seed(seed)
    initialize(encoder, config.initializer, config.activation, generator)
    if isinstance(config.initializer, Lsuv):
        if images is None:
            raise ModelError("initializer: found lsuv, which needs images to scale the weights on")
        lsuv_(encoder, images)
    return encoder


def check_images(
    encoder_or_contract: Encoder | InputContract, channels: int, height: int, width: int
) -> None:
    """Check that an encoder takes images of this shape.

    Raises:
        ModelError: naming the shape it takes and the shape given.
    """
    contract = (
        encoder_or_contract.input
        if isinstance(encoder_or_contract, Encoder)
        else encoder_or_contract
    )
    if (contract.channels, contract.height, contract.width) != (channels, height, width):
        raise ModelError(
            f"the encoder takes images of {contract.channels}x{contract.height}x{contract.width} "
            f"(channels x height x width), got {channels}x{height}x{width}: convert the images "
            "(data.channels, data.size) or use an encoder that was trained on such images"
        )
