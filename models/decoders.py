"""Decoders: from the features of an encoder's last stage back to the image.

Shapes: B batch, C channels, H height, W width, D features.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.conv_rbm import ConvRbmEncoderConfig
from models.convnext import ConvNextEncoderConfig
from models.dropout import PlainDropout
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    Encoder,
    EncoderConfig,
    conv_layers,
)
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.initialization import Lsuv, initialize
from models.layers import layer_group, same_conv, shifts
from models.lsuv import batch_statistics, lsuv_
from models.residual import ResidualEncoderConfig
from models.tied import tie_weights
from models.upsampling import Upsampling, halvings, upsample_layers
from models.vit import VitEncoderConfig

_GRID_KERNEL = 3
_NAMES = {"key": "decoder.upsampling", "kernel": "the encoder's kernel_size"}


class MirrorDecoderConfig(BaseModel):
    """The encoder's stages in reverse, with its widths, norm, activation and initializer.

    Without its dropout and spectral norm; a stage of residual blocks is mirrored by a convolution.
    Of a ConvNeXt, a ViT, convolutional RBMs or an external encoder only sizes and channels are
    mirrored: convolutions of 3x3 double the last stage's grid until it is the image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mirror"] = "mirror"
    upsampling: Upsampling = Field(
        "transposed",
        description="how a convolutional decoder doubles the size: a transposed convolution, or "
        "the nearest pixel and then a convolution (smoother pictures at over twice the cost)",
    )
    tied: bool = Field(
        False,
        description="use the encoder's weights, transposed, with biases and norms of its own; for "
        "conv and dense encoders without spectral norm",
    )


DecoderConfig = MirrorDecoderConfig


class Decoder(nn.Module):
    """Features of the encoder's last stage -> images [B, C, H, W], raw (no last activation).

    Raw values serve as intensities for squared errors and as logits for cross-entropy.
    """

    def __init__(
        self, hidden: nn.Sequential, output: nn.Sequential, starts: Sequence[int] | None = None
    ) -> None:
        """`starts` are the places in `hidden` where each lower stage's layers begin, if known."""
        super().__init__()
        self.hidden = hidden
        self.output = output
        self._starts = starts

    def forward(self, features: Tensor) -> Tensor:
        """Decode [B, C, H, W] or [B, D] features."""
        return self.output(self.hidden(features))

    def by_stage(self) -> list[nn.Sequential]:
        """Return the same layers in a part for each stage of the encoder, the topmost's first.

        Each but the last ends in the encoder's activation, and gives what the stage was given.

        Raises:
            ModelError: they mirror the encoder's sizes alone, not its stages.
        """
        if self._starts is None:
            raise ModelError(
                "the decoder has no part for each stage: only conv, residual and dense encoders "
                "are mirrored stage by stage"
            )
        ends = [*self._starts, len(self.hidden)]
        parts = [
            nn.Sequential(*list(self.hidden)[start:end])
            for start, end in zip([0, *self._starts], ends, strict=True)
        ]
        parts[-1].extend(self.output)
        return parts


def _conv_decoder(
    config: MirrorDecoderConfig, encoder: Encoder, encoder_config: ConvEncoderConfig
) -> Decoder:
    config_without_dropout = encoder_config.model_copy(update={"dropout": PlainDropout(rate=0)})
    image_shape = (encoder.input.channels, encoder.input.height, encoder.input.width)
    shapes = [image_shape, *(encoder.output_shapes[name] for name in encoder.stage_names)]
    hidden: list[nn.Module] = []
    output: list[nn.Module] = []
    starts: list[int] = []
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
        *resize, transform = upsample_layers(
            config.upsampling,
            channels,
            out_channels,
            encoder_config.kernel_size,
            (small[0], small[1]),
            (large[0], large[1]),
            bias=bias,
            **_NAMES,
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
            starts.append(len(hidden))
    return Decoder(nn.Sequential(*hidden), nn.Sequential(*output), starts)


def _as_convolutional(config: ResidualEncoderConfig) -> ConvEncoderConfig:
    """The convolutional encoder of the same stages: one convolution in the place of each."""
    return ConvEncoderConfig(
        stem=config.stem,
        widths=config.widths,
        kernel_size=config.kernel_size,
        norm=config.norm,
        activation=config.activation,
    )


def _grid_decoder(config: MirrorDecoderConfig, encoder: Encoder) -> Decoder:
    """Doublings from the grid of the last stage to the image, whatever is between them.

    At a size that stages have, the channels are those of the highest of them; elsewhere, as
    inside the patches of a ViT, half of those below.
    """
    contract, spec = encoder.input, encoder.config
    channels, *grid = encoder.output_shapes[encoder.stage_names[-1]]
    small = (grid[0], grid[1])
    by_size = {shape[1:]: shape[0] for shape in encoder.output_shapes.values()}
    image, *halves = halvings(contract.height, contract.width)
    sizes = [image, *(half for half in halves if half[0] > small[0] and half[1] > small[1])]
    hidden: list[nn.Module] = []
    while True:
        large = sizes.pop()
        is_output = not sizes
        out_channels = contract.channels if is_output else by_size.get(large, channels // 2 or 1)
        is_doubling = all((b + 1) // 2 == a for a, b in zip(small, large, strict=True))
        *resize, transform = upsample_layers(
            config.upsampling if is_doubling else "nearest",
            channels,
            out_channels,
            _GRID_KERNEL,
            small,
            large,
            bias=is_output or not shifts(spec.norm),
            **_NAMES,
        )
        if is_output:
            return Decoder(nn.Sequential(*hidden), nn.Sequential(*resize, transform))
        hidden += resize
        hidden += layer_group(
            transform, out_channels, norm=spec.norm, activation=spec.activation, spatial=True
        )
        channels, small = out_channels, large


def _dense_decoder(
    encoder: Encoder, encoder_config: DenseEncoderConfig | ExternalEncoderConfig
) -> Decoder:
    *lower, features = (shape[0] for shape in encoder.output_shapes.values())
    if isinstance(encoder_config, ExternalEncoderConfig):
        lower = []  # the stages below may have positions
    hidden: list[nn.Module] = []
    starts: list[int] = []
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
        starts.append(len(hidden))
    image_shape = (encoder.input.channels, encoder.input.height, encoder.input.width)
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    output = nn.Sequential(nn.Linear(features, pixels), nn.Unflatten(1, image_shape))
    is_mirror = isinstance(encoder_config, DenseEncoderConfig)
    return Decoder(nn.Sequential(*hidden), output, starts if is_mirror else None)


def build_decoder(
    config: DecoderConfig, encoder: Encoder, *, seed: int, images: Tensor | None = None
) -> Decoder:
    """The decoder that mirrors `encoder`, with weights drawn from `seed` alone.

    The last layer has neither norm nor activation, so its weights are drawn by Glorot (uniform).

    Args:
        images: [B, C, H, W] in [0, 1], for the initializer `lsuv`, which scales the layers below
            the last on the encoder's features of them; others do not look at them.
    Raises:
        ModelError: `lsuv` without images, or with images that are all the same; transposed
            convolutions of one pixel; or tied weights where there is nothing to tie them to.
    """
    encoder_config = encoder.config
    if config.tied:
        _check_tied(config, encoder_config)
    has_positions = len(encoder.output_shapes[encoder.stage_names[-1]]) == 3
    with torch.random.fork_rng(devices=[]):
        match encoder_config:
            case ConvEncoderConfig():
                decoder = _conv_decoder(config, encoder, encoder_config)
            case ResidualEncoderConfig():
                decoder = _conv_decoder(config, encoder, _as_convolutional(encoder_config))
            case ConvNextEncoderConfig() | VitEncoderConfig() | ConvRbmEncoderConfig():
                decoder = _grid_decoder(config, encoder)
            case ExternalEncoderConfig() if has_positions:
                decoder = _grid_decoder(config, encoder)
            case DenseEncoderConfig() | ExternalEncoderConfig():
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
    if config.tied:
        tie_weights(decoder, encoder)
    return decoder


def _check_tied(config: MirrorDecoderConfig, encoder_config: EncoderConfig) -> None:
    found = "decoder.tied: found true with"
    if not isinstance(encoder_config, ConvEncoderConfig | DenseEncoderConfig):
        raise ModelError(
            f"{found} encoder.kind {encoder_config.kind!r}, whose layers the decoder does not "
            "mirror one by one; set it to false, or take encoder.kind conv or dense"
        )
    if encoder_config.spectral_norm:
        raise ModelError(
            f"{found} encoder.spectral_norm, whose weights are made anew in every pass; set one "
            "of them to false"
        )
    if isinstance(encoder_config, ConvEncoderConfig) and config.upsampling != "transposed":
        raise ModelError(
            f"{found} decoder.upsampling {config.upsampling!r}, whose convolutions have another "
            "shape than the encoder's transposed ones; set it to transposed"
        )
