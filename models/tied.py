"""Tied weights: decoder layers that use an encoder's weights, transposed, with biases of their own.

Vincent et al. 2010, "Stacked Denoising Autoencoders". Half as many weights; the decoder's gradient
reaches the encoder's weights too.

Shapes: B batch, C channels, H height, W width, D features.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class TiedLinear(nn.Module):
    """[B, out] -> [B, in] by the transposed weight of a linear layer, which it does not own."""

    def __init__(self, source: nn.Linear, bias: Tensor | None) -> None:
        super().__init__()
        # Inside a tuple it is no submodule: its weight has one name and one owner.
        self._source = (source,)
        self.bias = bias

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self._source[0].weight.T, self.bias)


class TiedConv2d(nn.Module):
    """[B, out, h, w] -> [B, in, H, W] by the transpose of a convolution, which it does not own."""

    def __init__(
        self, source: nn.Conv2d, bias: Tensor | None, output_padding: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._source = (source,)
        self.bias = bias
        self._output_padding = output_padding

    def forward(self, features: Tensor) -> Tensor:
        source = self._source[0]
        height, width = source.kernel_size
        return F.conv_transpose2d(
            features,
            source.weight,
            self.bias,
            source.stride,
            (height // 2, width // 2),
            self._output_padding,
        )


def tie_weights(decoder: nn.Module, encoder: nn.Module) -> None:
    """Let a decoder's layers use the weights of those of an encoder, which they mirror, in place.

    Args:
        decoder: its linear layers and convolutions, plain or transposed, in the order in which
            they run, are replaced; their biases stay.
        encoder: has as many linear layers and plain convolutions, of the mirrored shapes.
    """
    sources = [m for m in encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    untied = [
        (parent, name, layer)
        for parent in decoder.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    for source, (parent, name, layer) in zip(reversed(sources), untied, strict=True):
        if isinstance(source, nn.Linear):
            assert isinstance(layer, nn.Linear)
            assert layer.weight.shape == source.weight.T.shape
            tied: nn.Module = TiedLinear(source, layer.bias)
        else:
            assert layer.weight.shape[2:] == source.weight.shape[2:]
            padding = layer.output_padding if isinstance(layer, nn.ConvTranspose2d) else (0, 0)
            assert isinstance(padding, tuple)
            tied = TiedConv2d(source, layer.bias, padding)
        setattr(parent, name, tied)
