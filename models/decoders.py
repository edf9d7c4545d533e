"""Decoders: from the features of an encoder's last stage back to the image.

Shapes: B batch, C channels, H height, W width, D features.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.dropout import PlainDropout
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, Encoder, conv_layers
from models.errors import ModelError
from models.initialization import Lsuv, initialize
from models.layers import layer_group, same_conv, shifts
from models.lsuv import batch_statistics, lsuv_
from models.residual import ResidualEncoderConfig

Upsampling = Literal["transposed", "nearest"]


class MirrorDecoderConfig(BaseModel):
    """The encoder's stages in reverse, with its widths, norm, activation and initializer.

    Without its dropout and spectral norm; a stage of residual blocks is mirrored by a convolution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mirror"] = "mirror"
    upsampling: Upsampling = Field(
        "transposed",
        description="how a convolutional decoder doubles the size: a transposed convolution, or "
        "the nearest pixel and then a convolution (smoother pictures at over twice the cost)",
    )


DecoderConfig = MirrorDecoderConfig


class _NearestUpsample(nn.Module):
    """Resize [B, C, h, w] to a fixed [B, C, height, width] by the nearest pixel."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, size=self.size, mode="nearest")


class Decoder(nn.Module):
    """Features of the encoder's last stage -> images [B, C, H, W], raw (no last activation).

    Raw values serve as intensities for squared errors and as logits for cross-entropy.
    """

    def __init__(self, hidden: nn.Sequential, output: nn.Sequential) -> None:
        super().__init__()
        self.hidden = hidden
        self.output = output

    def forward(self, features: Tensor) -> Tensor:
        """Decode [B, C, H, W] or [B, D] features."""
        return self.output(self.hidden(features))


def _upsample(
    upsampling: Upsampling,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    small: tuple[int, int],
    large: tuple[int, int],
    *,
    bias: bool,
) -> list[nn.Module]:
    """Layers that undo a stride-2 convolution: [B, in, *small] -> [B, out, *large]."""
    if upsampling == "nearest":
        conv = same_conv(in_channels, out_channels, kernel_size, bias=bias)
        return [_NearestUpsample(*large), conv]
    if kernel_size == 1:
        # Torch 2.13 on a CPU also writes outside its memory there, as in `same_conv`.
        raise ModelError(
            "decoder.upsampling: found transposed with the encoder's kernel_size 1, which leaves "
            "three of four pixels without a value; set it to nearest, or take a larger kernel"
        )
    # Without output padding the result has 2 n - 1 pixels; the stride-2 encoder maps both
    # 2 n - 1 and 2 n pixels to n.
    output_padding = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))
    return [
        nn.ConvTranspose2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=2,
            padding=kernel_size // 2,
            output_padding=output_padding,
            bias=bias,
        )
    ]


def _conv_decoder(
    config: MirrorDecoderConfig, encoder: Encoder, encoder_config: ConvEncoderConfig
) -> Decoder:
    config_without_dropout = encoder_config.model_copy(update={"dropout": PlainDropout(rate=0)})
    image_shape = (encoder.input.channels, encoder.input.height, encoder.input.width)
    shapes = [image_shape, *(encoder.output_shapes[name] for name in encoder.stage_names)]
    hidden: list[nn.Module] = []
    output: list[nn.Module] = []
    for stage in reversed(range(1, len(shapes))):
        channels, *small = shapes[stage]
        out_channels, *large = shapes[stage - 1]
        is_output = stage == 1
        bias = is_output or not shifts(encoder_config.norm)
        if encoder.stage_names[stage - 1] == "stem":
            output = [same_conv(channels, out_channels, encoder_config.kernel_size)]
            continue
        for _ in range(encoder_config.blocks - 1):
            hidden += conv_layers(config_without_dropout, channels, channels, stride=1)
        *resize, transform = _upsample(
            config.upsampling,
            channels,
            out_channels,
            encoder_config.kernel_size,
            (small[0], small[1]),
            (large[0], large[1]),
            bias=bias,
        )
        if is_output:
            output = [*resize, transform]
        else:
            hidden += resize
            hidden += layer_group(
                transform,
                out_channels,
                norm=encoder_config.norm,
                activation=encoder_config.activation,
                spatial=True,
            )
    return Decoder(nn.Sequential(*hidden), nn.Sequential(*output))


def _as_convolutional(config: ResidualEncoderConfig) -> ConvEncoderConfig:
    """The convolutional encoder of the same stages: one convolution in the place of each."""
    return ConvEncoderConfig(
        stem=config.stem,
        widths=config.widths,
        kernel_size=config.kernel_size,
        norm=config.norm,
        activation=config.activation,
    )


def _dense_decoder(encoder: Encoder, encoder_config: DenseEncoderConfig) -> Decoder:
    *lower, features = encoder_config.widths
    hidden: list[nn.Module] = []
    for units in reversed(lower):
        linear = nn.Linear(features, units, bias=not shifts(encoder_config.norm))
        hidden += layer_group(
            linear,
            units,
            norm=encoder_config.norm,
            activation=encoder_config.activation,
            spatial=False,
        )
        features = units
    image_shape = (encoder.input.channels, encoder.input.height, encoder.input.width)
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    output = nn.Sequential(nn.Linear(features, pixels), nn.Unflatten(1, image_shape))
    return Decoder(nn.Sequential(*hidden), output)


def build_decoder(
    config: DecoderConfig, encoder: Encoder, *, seed: int, images: Tensor | None = None
) -> Decoder:
    """The decoder that mirrors `encoder`, with weights drawn from `seed` alone.

    The last layer has neither norm nor activation, so its weights are drawn by Glorot (uniform).

    Args:
        images: [B, C, H, W] in [0, 1], for the initializer `lsuv`, which scales the layers below
            the last on the encoder's features of them; others do not look at them.
    Raises:
        ModelError: `lsuv` without images, or with images that are all the same; or transposed
            convolutions of one pixel.
    """
    encoder_config = encoder.config
    with torch.random.fork_rng(devices=[]):
        match encoder_config:
            case ConvEncoderConfig():
                decoder = _conv_decoder(config, encoder, encoder_config)
            case ResidualEncoderConfig():
                decoder = _conv_decoder(config, encoder, _as_convolutional(encoder_config))
            case DenseEncoderConfig():
                decoder = _dense_decoder(encoder, encoder_config)
    generator = torch.Generator().manual_seed(seed)
    initialize(decoder.hidden, encoder_config.initializer, encoder_config.activation, generator)
    initialize(decoder.output, "glorot_uniform", "identity", generator)
    if isinstance(encoder_config.initializer, Lsuv):
        if images is None:
            raise ModelError("initializer: found lsuv, which needs images to scale the weights on")
        with torch.no_grad(), batch_statistics(encoder):
            features = encoder(images)
        lsuv_(decoder.hidden, features)
    return decoder
