"""Variances and determinism of weight initialization."""

import pytest
import torch
from torch import nn

from models.initialization import default_initializer, fans, initialize

LAYERS = {
    "dense": (nn.Linear(300, 200), 300, 200),
    "conv": (nn.Conv2d(64, 96, 3, stride=2), 64 * 9, 96 * 9),
    "grouped": (nn.Conv2d(64, 128, 3, groups=4), 16 * 9, 32 * 9),
    "transposed": (nn.ConvTranspose2d(64, 96, 3), 64 * 9, 96 * 9),
    # With stride 2 an output sums a quarter of the kernel's positions on average.
    "strided transposed": (nn.ConvTranspose2d(64, 96, 4, stride=2), 64 * 4, 96 * 16),
    "grouped transposed": (nn.ConvTranspose2d(64, 128, 3, groups=4), 16 * 9, 32 * 9),
}


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize(
    "initializer", ["he_normal", "he_uniform", "glorot_normal", "glorot_uniform"]
)
def test_weights_have_the_papers_variance(layer_name, initializer):
    layer, fan_in, fan_out = LAYERS[layer_name]
    initialize(layer, initializer, "identity", torch.Generator().manual_seed(0))
    want = 2 / fan_in if initializer.startswith("he") else 2 / (fan_in + fan_out)
    weight = layer.weight.detach()
    assert fans(layer) == (fan_in, fan_out)
    assert weight.var().item() == pytest.approx(want, rel=0.05)
    assert weight.mean().abs().item() < 0.05 * want**0.5
    farthest = weight.abs().max().item() / want**0.5
    assert farthest > 3 if initializer.endswith("normal") else farthest <= 3**0.5 + 1e-6
    assert not layer.bias.any()


def test_he_keeps_the_size_of_activations_through_strided_transposed_convolutions():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(8, 64, 8, 8, generator=generator)
    for _ in range(3):
        layer = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        initialize(layer, "he_normal", "relu", generator)
        signal = layer(signal).relu()
    # He keeps the second moment at that of the (unit variance) input.
    assert 0.4 < signal.square().mean().item() < 1.5


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [
        ("relu", "he_normal"),
        ("gelu", "he_normal"),
        ("tanh", "glorot_uniform"),
        ("selu", "glorot_uniform"),
    ],
)
def test_the_default_follows_the_activation(activation, wanted):
    named, default = nn.Linear(50, 40), nn.Linear(50, 40)
    initialize(named, wanted, "identity", torch.Generator().manual_seed(3))
    initialize(default, None, activation, torch.Generator().manual_seed(3))
    assert default_initializer(activation) == wanted
    assert torch.equal(named.weight, default.weight)
