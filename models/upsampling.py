"""Doubling the size of feature maps, as decoders and generators do.

Shapes: B batch, C channels, h, w and height, width before and after.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.layers import same_conv

Upsampling = Literal["transposed", "nearest"]


class NearestUpsample(nn.Module):
    """Resize [B, C, h, w] to a fixed [B, C, height, width] by the nearest pixel."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(features, size=self.size, mode="nearest")


def halvings(height: int, width: int) -> list[tuple[int, int]]:
    """The size of an image, then half of it (rounded up), and so on down to one pixel."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def upsample_layers(
    upsampling: Upsampling,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    small: tuple[int, int],
    large: tuple[int, int],
    *,
    bias: bool,
    key: str,
    kernel: str,
) -> list[nn.Module]:
    """Layers that undo a stride-2 convolution: [B, in, *small] -> [B, out, *large].

    Args:
        key: of the config that chose `upsampling`, for the error.
        kernel: words for what chose `kernel_size`, for the error.
    Raises:
        ModelError: a transposed convolution of one pixel.
    """
    if upsampling == "nearest":
        conv = same_conv(in_channels, out_channels, kernel_size, bias=bias)
        return [NearestUpsample(*large), conv]
    if kernel_size == 1:
        # Torch 2.13 on a CPU also writes outside its memory there, as in `same_conv`.
        raise ModelError(
            f"{key}: found transposed with {kernel} 1, which leaves three of four pixels without "
            "a value; set it to nearest, or take a larger kernel"
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
