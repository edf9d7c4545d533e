"""Encoders: ordered, named stages from images to features, lowest first.

Shapes: B batch, C channels, H height, W width, D features. Images are float in [0, 1], BCHW.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)
from torch import Tensor, nn

from models.conv_rbm import ConvRbmEncoderConfig, conv_rbm_stages
from models.convnext import ConvNextEncoderConfig, convnext_stages
from models.dropout import SpatialDropout, make_dropout
from models.errors import ModelError
from models.external import ExternalEncoderConfig, external_stages
from models.initialization import Lsuv, initialize
from models.layers import layer_group, normalizes_lone_values, same_conv, shifts
from models.lsuv import lsuv_
from models.residual import ResidualBlock, ResidualEncoderConfig, residual_stages
from models.spectral import add_spectral_norm
from models.stages import (
    CommonEncoderConfig,
    KernelSize,
    Shape,
    Stage,
    StageLayers,
    Width,
    Widths,
)
from models.vit import Patches, VitEncoderConfig, vit_stages

# The upper bound keeps a header that was read from a file from asking for absurd sizes.
Side = Annotated[int, Field(ge=1, le=16384)]


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


class ConvEncoderConfig(CommonEncoderConfig):
    """Strided convolutions: each stage halves height and width (rounded up)."""

    kind: Literal["conv"] = "conv"
    widths: Widths = Field((32, 64, 128), description="channels of stage1, stage2, ...")
    blocks: int = Field(
        1, ge=1, le=64, description="convolutions per stage; the first has stride 2, the others 1"
    )
    kernel_size: KernelSize = Field(3, description="odd, in pixels")
    stem: Width | None = Field(
        None, description="channels of an unstrided convolution below stage1; null for none"
    )


class DenseEncoderConfig(CommonEncoderConfig):
    """Fully connected layers on the flattened image."""

    kind: Literal["dense"] = "dense"
    widths: Widths = Field((512, 256), description="units of layer1, layer2, ...")

    @model_validator(mode="after")
    def _without_positions(self) -> "DenseEncoderConfig":
        if self.norm == "instance" or isinstance(self.dropout, SpatialDropout):
            found = "norm instance" if self.norm == "instance" else "dropout spatial"
            raise ValueError(
                f"found {found}, which is about positions; dense layers have none: take another"
            )
        return self


EncoderConfig = Annotated[
    ConvEncoderConfig
    | ResidualEncoderConfig
    | ConvNextEncoderConfig
    | VitEncoderConfig
    | DenseEncoderConfig
    | ConvRbmEncoderConfig
    | ExternalEncoderConfig,
    Field(discriminator="kind"),
]


def conv_layers(
    config: ConvEncoderConfig, in_channels: int, out_channels: int, *, stride: int
) -> list[nn.Module]:
    """One convolution with same padding, its norm, activation and dropout."""
    bias = not shifts(config.norm)
    return layer_group(
        same_conv(in_channels, out_channels, config.kernel_size, stride=stride, bias=bias),
        out_channels,
        norm=config.norm,
        activation=config.activation,
        spatial=True,
        dropout=make_dropout(config.dropout),
    )


def _conv_stages(
    config: ConvEncoderConfig, channels: int, height: int, width: int
) -> Iterator[Stage]:
    if config.stem is not None:
        layers = conv_layers(config, channels, config.stem, stride=1)
        channels = config.stem
        yield "stem", StageLayers(*layers), (channels, height, width)
    for number, out_channels in enumerate(config.widths, start=1):
        layers = conv_layers(config, channels, out_channels, stride=2)
        for _ in range(config.blocks - 1):
            layers += conv_layers(config, out_channels, out_channels, stride=1)
        channels, height, width = out_channels, (height + 1) // 2, (width + 1) // 2
        yield f"stage{number}", StageLayers(*layers), (channels, height, width)


def _dense_stages(config: DenseEncoderConfig, features: int) -> Iterator[Stage]:
    for number, units in enumerate(config.widths, start=1):
        linear = nn.Linear(features, units, bias=not shifts(config.norm))
        layers = layer_group(
            linear,
            units,
            norm=config.norm,
            activation=config.activation,
            spatial=False,
            dropout=make_dropout(config.dropout),
        )
        if number == 1:
            layers.insert(0, nn.Flatten())
        features = units
        yield f"layer{number}", StageLayers(*layers), (units,)


def _stages(config: EncoderConfig, contract: InputContract) -> Iterator[Stage]:
    shape = contract.channels, contract.height, contract.width
    match config:
        case ConvEncoderConfig():
            return _conv_stages(config, *shape)
        case ResidualEncoderConfig():
            return residual_stages(config, *shape)
        case ConvNextEncoderConfig():
            return convnext_stages(config, *shape)
        case VitEncoderConfig():
            return vit_stages(config, *shape)
        case ConvRbmEncoderConfig():
            return conv_rbm_stages(config, *shape)
        case ExternalEncoderConfig():
            return external_stages(config, *shape)
        case DenseEncoderConfig():
            return _dense_stages(config, math.prod(shape))


class Encoder(nn.Module):
    """Named stages in order, lowest first, behind the normalization of the input contract.

    A stage can be frozen: its parameters get no gradient and it stays in eval mode (batch-norm
    statistics and dropout included) whatever `train()` is called on it or on a parent.
    Weights are torch's default draw, without spectral norm; `build_encoder` draws them as the
    config says.

    Raises:
        ModelError: a norm that has only one value at a time to normalize, such as `instance`
            where a stage has a single position; patches that do not divide the image; or
            external code that gives no such stages.
    """

    def __init__(self, config: EncoderConfig, input: InputContract) -> None:
        super().__init__()
        self.config = config
        self.input = input
        self.blocks = nn.ModuleDict()
        self.output_shapes: dict[str, Shape] = {}
        """Shape of each stage's output, without the batch axis: (C, H, W) or (D,)."""
        for name, stage, shape in _stages(config, input):
            if normalizes_lone_values(config.norm, shape):
                raise ModelError(
                    f"norm: found {config.norm}, which leaves nothing of features of shape "
                    f"{shape} as those of {name}: take another norm or other widths"
                )
            self.blocks[name] = stage
            self.output_shapes[name] = shape
        self.stage_names: list[str] = list(self.output_shapes)
        self._frozen: frozenset[str] = frozenset()
        self._checkpointed: Callable[[nn.Module, Tensor], Tensor] | None = None
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
        features = self.normalize(images)
        for name, stage in self.blocks.items():
            features = self._run(stage, features)
            if name == last:
                break
        return features

    def of_parts(self, parts: Tensor) -> Tensor:
        """Features of the last stage of parts of images, [P, C, h, w] in [0, 1], of one size."""
        return self._climb(torch.addcmul(self._shift, parts, self._scale), self.stage_names)

    def above(self, name: str, features: Tensor) -> Tensor:
        """Features of the last stage from those of the stage `name`, of any height and width.

        So patches of a ViT may be left out: attention does not ask for a whole grid.
        """
        return self._climb(features, self.stage_names[self.stage_names.index(name) + 1 :])

    def normalize(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] as the lowest stage gets them.

        Raises:
            ModelError: images of another shape or of integers.
        """
        if images.dim() != 4:
            raise ModelError(f"images must be [B, C, H, W], got shape {tuple(images.shape)}")
        check_images(self.input, *images.shape[1:])
        if not images.is_floating_point():
            raise ModelError(f"images must be float in [0, 1], got {images.dtype}: divide by 255")
        return torch.addcmul(self._shift, images, self._scale)

    def one_stage(self, name: str, below: Tensor) -> Tensor:
        """Features of one stage from those of the stage below it.

        Of the lowest stage from images [B, C, H, W] in [0, 1].
        """
        features = self.normalize(below) if name == self.stage_names[0] else below
        return self._run(self.blocks[name], features)

    def stages(self, images: Tensor, upto: str | None = None) -> dict[str, Tensor]:
        """Features of every stage up to `upto` (default: the last) by name, lowest first.

        Raises:
            ModelError: as `forward`.
        """
        last = self._stage(upto)
        features = self.normalize(images)
        by_stage: dict[str, Tensor] = {}
        for name, stage in self.blocks.items():
            by_stage[name] = features = self._run(stage, features)
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

    def checkpoint_stages(self) -> None:
        """Keep only what lies between stages for the backward pass, and compute the rest again.

        Takes less memory and about a third more time (Chen et al. 2016, "Training Deep Nets with
        Sublinear Memory Cost"). Losses, gradients and running statistics stay the same. Call it
        before `compile`.
        """
        # Only here: it imports the compiler, which takes a second.
        from models.recomputation import checkpointed

        self._checkpointed = checkpointed

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile in place as a whole or, after `checkpoint_stages`, each stage by itself."""
        if self._checkpointed is None:
            super().compile(*args, **kwargs)
            return
        # A compiled whole would run what is inside its checkpoints eagerly.
        for stage in self.blocks.values():
            stage.compile(*args, **kwargs)

    def train(self, mode: bool = True) -> "Encoder":
        """Set training mode for all stages that are not frozen."""
        super().train(mode)
        for name in self._frozen:
            self.blocks[name].eval()
        return self

    def _climb(self, features: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            features = self._run(self.blocks[name], features)
        return features

    def _run(self, stage: nn.Module, features: Tensor) -> Tensor:
        if self._checkpointed is not None and torch.is_grad_enabled():
            return self._checkpointed(stage, features)
        return stage(features)

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


def build_encoder(
    config: EncoderConfig, input: InputContract, *, seed: int, images: Tensor | None = None
) -> Encoder:
    """An encoder with weights drawn from `seed` alone; torch's global generator is left alone.

    Args:
        images: [B, C, H, W] in [0, 1], for the initializer `lsuv`; others do not look at them.
    Raises:
        ModelError: `lsuv` without images, or with images that are all the same; or a norm that
            the images are too small for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = Encoder(config, input)
    generator = torch.Generator().manual_seed(seed)
    zero_ends = isinstance(config, ResidualEncoderConfig) and config.zero_init_residual
    # External code draws its own weights, or loads them, unless told otherwise.
    if config.initializer is not None or not isinstance(config, ExternalEncoderConfig):
        initialize(encoder, config.initializer, config.activation, generator)
    for part in encoder.modules():
        if isinstance(part, Patches):
            part.draw_positions(generator)
        elif isinstance(part, ResidualBlock) and zero_ends:
            part.zero_end()
    if isinstance(config.initializer, Lsuv):
        if images is None:
            raise ModelError("initializer: found lsuv, which needs images to scale the weights on")
        lsuv_(encoder, images)
    if config.spectral_norm:
        add_spectral_norm(encoder, seed=seed)
    return encoder


def outline(config: EncoderConfig, input: InputContract) -> Encoder:
    """An encoder without memory for its weights, to look at and to count its operations.

    External code is not asked to work without memory: its weights are there.

    Raises:
        ModelError: as `Encoder`.
    """
    on = "cpu" if isinstance(config, ExternalEncoderConfig) else "meta"
    with torch.random.fork_rng(devices=[]), torch.device(on):
        return Encoder(config, input)


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
