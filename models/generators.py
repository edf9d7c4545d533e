"""Generators: from a latent code to an image, as the first player of a GAN.

Shapes: B batch, L latent dimensions, C channels, H height, W width.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from models.encoders import ConvEncoderConfig, Encoder
from models.errors import ModelError
from models.initialization import InitializerConfig, Lsuv, initialize
from models.layers import (
    ActivationName,
    NormName,
    layer_group,
    make_activation,
    make_norm,
    normalizes_lone_values,
    present,
    same_conv,
    shifts,
)
from models.residual import ResidualEncoderConfig
from models.stages import KernelSize, Widths
from models.upsampling import NearestUpsample, Upsampling, halvings, upsample_layers
from models.vit import to_grid

_WIDEST = 128
_NARROWEST = 32
_SMALL_SIDE = 8

_Size = tuple[int, int]


class _GeneratorConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(64, ge=1, le=65536, description="dimensions of the code")
    widths: Widths | None = Field(
        None,
        description="channels at the smallest size, at twice that, ... up to half the image's; "
        "null: those of the discriminator's stages reversed or, where it is neither conv nor "
        "residual, 128 at the largest half whose shorter side has 8 pixels or less, then 64, and "
        "32 at all others",
    )
    kernel_size: KernelSize = Field(3, description="odd, in pixels")
    norm: NormName = "batch"
    activation: ActivationName = "relu"
    initializer: InitializerConfig | None = Field(
        None,
        description="how weights are drawn: a name, or its kind and values; null follows the "
        "activation",
    )

    @field_validator("initializer")
    @classmethod
    def _without_images(cls, value: InitializerConfig | None) -> InitializerConfig | None:
        if isinstance(value, Lsuv):
            raise ValueError("found lsuv, which scales weights on images: take another initializer")
        return value


class ConvGeneratorConfig(_GeneratorConfig):
    """A dense layer, then convolutions that double the size (DCGAN, Radford et al. 2016)."""

    kind: Literal["conv"] = "conv"
    upsampling: Upsampling = Field(
        "nearest",
        description="how the size is doubled: the nearest pixel and then a convolution, or a "
        "transposed convolution: a quarter of the multiplications, but checkerboards "
        "(Odena et al. 2016)",
    )


class ResidualGeneratorConfig(_GeneratorConfig):
    """A dense layer, then residual blocks that double the size (Miyato et al. 2018, SNGAN)."""

    kind: Literal["residual"] = "residual"
    blocks: int = Field(1, ge=1, le=64, description="per stage; the first doubles the size")


GeneratorConfig = Annotated[
    ConvGeneratorConfig | ResidualGeneratorConfig, Field(discriminator="kind")
]


class Generator(nn.Module):
    """A code [B, L] -> images [B, C, H, W] in [0, 1], float32, channels last in memory.

    A dense layer gives the features of the smallest size, `hidden` all others, and `output` what
    becomes the image by a sigmoid.

    Attributes:
        latent: L.
    """

    def __init__(
        self,
        latent: int,
        channels: int,
        size: _Size,
        hidden: Sequence[nn.Module],
        output: Sequence[nn.Module],
    ) -> None:
        """`channels` and `size` are those of the smallest features."""
        super().__init__()
        self.latent = latent
        self._channels, self._size = channels, size
        self.linear = nn.Linear(latent, channels * size[0] * size[1])
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Sequential(*output)

    def forward(self, code: Tensor) -> Tensor:
        """Return the images of codes [B, L]."""
        # Channels come last out of the dense layer, so that no copy is needed.
        features = to_grid(self.linear(code).unflatten(1, (-1, self._channels)), self._size)
        return self.output(self.hidden(features)).float().sigmoid()


class GeneratorBlock(nn.Module):
    """Norm and activation before each of two convolutions: [B, C, h, w] -> [B, C', H, W].

    Their result is added to what the block is given. Where the block doubles the size, its branch
    does so by the nearest pixel before the first convolution, and its shortcut has a convolution
    of one pixel.
    """

    def __init__(
        self,
        config: ResidualGeneratorConfig,
        in_channels: int,
        out_channels: int,
        *,
        size: _Size | None = None,
    ) -> None:
        """`size` is the height and width that are doubled to; None: they stay, as do channels."""
        super().__init__()
        kernel_size, bias = config.kernel_size, not shifts(config.norm)
        resize = None if size is None else NearestUpsample(*size)
        self.branch = nn.Sequential(
            *present(
                make_norm(config.norm, in_channels, spatial=True),
                # Without a norm its input is also what the shortcut passes on.
                make_activation(config.activation, inplace=config.norm != "none"),
                resize,
            ),
            *layer_group(
                same_conv(in_channels, out_channels, kernel_size, bias=bias),
                out_channels,
                norm=config.norm,
                activation=config.activation,
                spatial=True,
            ),
            same_conv(out_channels, out_channels, kernel_size, bias=bias),
        )
        projection = None if size is None else same_conv(in_channels, out_channels, 1, bias=bias)
        # The same as resizing first, at a quarter of the cost.
        self.shortcut = nn.Sequential(*present(projection, resize))

    def forward(self, features: Tensor) -> Tensor:
        return self.shortcut(features) + self.branch(features)


class _Doubling(NamedTuple):
    """Of height and width (less one, where they are odd), with the channels on either side."""

    below: int
    above: int
    small: _Size
    large: _Size


def _conv_layers(
    config: ConvGeneratorConfig, doublings: Sequence[_Doubling], channels: int
) -> Iterator[list[nn.Module]]:
    """Yield the layers of each stage, the last of which gives the image's channels."""
    norm = make_norm(config.norm, doublings[0].below, spatial=True)
    yield present(norm, make_activation(config.activation))
    for number, (below, above, small, large) in enumerate(doublings, start=1):
        is_output = number == len(doublings)
        *resize, transform = upsample_layers(
            config.upsampling,
            below,
            channels if is_output else above,
            config.kernel_size,
            small,
            large,
            bias=is_output or not shifts(config.norm),
            key="objective.generator.upsampling",
            kernel="generator.kernel_size",
        )
        if is_output:
            yield [*resize, transform]
        else:
            yield resize + layer_group(
                transform, above, norm=config.norm, activation=config.activation, spatial=True
            )


def _residual_layers(
    config: ResidualGeneratorConfig, doublings: Sequence[_Doubling], channels: int
) -> Iterator[list[nn.Module]]:
    """Yield the layers of each stage, then those that give the image's channels."""
    for below, above, _, large in doublings:
        first = GeneratorBlock(config, below, above, size=large)
        yield [first, *(GeneratorBlock(config, above, above) for _ in range(config.blocks - 1))]
    last = doublings[-1].above
    norm = make_norm(config.norm, last, spatial=True)
    output = same_conv(last, channels, config.kernel_size)
    yield present(norm, make_activation(config.activation), output)


def build_generator(config: GeneratorConfig, encoder: Encoder, *, seed: int) -> Generator:
    """A generator of images that `encoder` takes, with weights drawn from `seed` alone.

    The last layer has neither norm nor activation below its sigmoid, so its weights are drawn by
    Glorot (uniform).

    Args:
        encoder: the discriminator's, whose widths are mirrored where the config gives none.
    Raises:
        ModelError: more widths than the image can be halved; a norm that has only one value at a
            time to normalize; or transposed convolutions of one pixel.
    """
    contract = encoder.input
    sizes = halvings(contract.height, contract.width)
    widths = _widths(config, encoder, sizes)
    grids = sizes[len(widths) :: -1]
    for width, size in zip(widths, grids, strict=False):
        if normalizes_lone_values(config.norm, (width, *size)):
            raise ModelError(
                f"objective.generator.norm: found {config.norm}, which leaves nothing of {width} "
                f"channels of {size[0]}x{size[1]} pixels: take another norm or other widths"
            )
    # Residual blocks have the last width at the image's size too.
    channels = pairwise([*widths, widths[-1]])
    doublings = [
        _Doubling(*sides, *around) for sides, around in zip(channels, pairwise(grids), strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        match config:
            case ConvGeneratorConfig():
                *stages, output = _conv_layers(config, doublings, contract.channels)
            case ResidualGeneratorConfig():
                *stages, output = _residual_layers(config, doublings, contract.channels)
        hidden = [layer for stage in stages for layer in stage]
        network = Generator(config.latent, widths[0], grids[0], hidden, output)
    generator = torch.Generator().manual_seed(seed)
    for part in (network.linear, network.hidden):
        initialize(part, config.initializer, config.activation, generator)
    initialize(network.output, "glorot_uniform", "identity", generator)
    return network


def _widths(config: GeneratorConfig, encoder: Encoder, sizes: Sequence[_Size]) -> tuple[int, ...]:
    """The channels at the smallest size first; `sizes` are those that the image can have."""
    spec, origin = encoder.config, ""
    if config.widths is not None:
        widths = config.widths
    elif isinstance(spec, ConvEncoderConfig | ResidualEncoderConfig):
        widths, origin = spec.widths[::-1], " (null takes those of the encoder)"
    else:
        number = next(n for n, size in enumerate(sizes) if min(size) <= _SMALL_SIDE)
        widths = tuple(max(_WIDEST >> n, _NARROWEST) for n in range(max(number, 1)))
    most = len(sizes) - 1
    if len(widths) > most:
        remedy = f"give {most} at most" if most else "scale the images (data.size)"
        raise ModelError(
            f"objective.generator.widths: found {len(widths)}{origin}, but images of "
            f"{sizes[0][0]}x{sizes[0][1]} (height x width) can be halved {most} times: {remedy}"
        )
    return widths
