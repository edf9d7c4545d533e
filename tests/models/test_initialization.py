"""Weight initialization: the distribution of each initializer, and what it does to activations."""

import math
from typing import get_args

import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import nn

from models.initialization import (
    InitializerConfig,
    InitializerName,
    Orthogonal,
    TruncatedNormal,
    default_initializer,
    fans,
    initialize,
)
from models.layers import make_activation

LAYERS = {
    "dense": (nn.Linear(300, 200), 300, 200),
    "conv": (nn.Conv2d(64, 96, 3, stride=2), 64 * 9, 96 * 9),
    "grouped": (nn.Conv2d(64, 128, 3, groups=4), 16 * 9, 32 * 9),
    "transposed": (nn.ConvTranspose2d(64, 96, 3), 64 * 9, 96 * 9),
    # With stride 2 an output sums a quarter of the kernel's positions on average.
    "strided transposed": (nn.ConvTranspose2d(64, 96, 4, stride=2), 64 * 4, 96 * 16),
    "grouped transposed": (nn.ConvTranspose2d(64, 128, 3, groups=4), 16 * 9, 32 * 9),
}
# What is left of a normal's variance when it is cut at two standard deviations.
AFTER_THE_CUT = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
VARIANCES = {
    "normal": lambda fan_in, fan_out: 0.01**2,
    "uniform": lambda fan_in, fan_out: 0.05**2 / 3,
    "truncated_normal": lambda fan_in, fan_out: 0.02**2 * AFTER_THE_CUT,
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
    "lecun_uniform": lambda fan_in, fan_out: 1 / fan_in,
    "glorot_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "glorot_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
}
FARTHEST = {"uniform": math.sqrt(3), "truncated": 2 / math.sqrt(AFTER_THE_CUT)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parse(value):
    return TypeAdapter(InitializerConfig).validate_python(value)


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("initializer", VARIANCES)
def test_weights_have_the_variance_and_the_shape_of_their_distribution(layer_name, initializer):
    layer, fan_in, fan_out = LAYERS[layer_name]
    initialize(layer, initializer, "identity", generator())
    want = VARIANCES[initializer](fan_in, fan_out)
    weight = layer.weight.detach()
    assert fans(layer) == (fan_in, fan_out)
    assert weight.var().item() == pytest.approx(want, rel=0.05)
    assert weight.mean().abs().item() < 0.05 * want**0.5
    farthest = weight.abs().max().item() / want**0.5
    bound = next((FARTHEST[name] for name in FARTHEST if name in initializer), None)
    assert farthest > 3 if bound is None else 0.98 * bound < farthest <= bound + 1e-6
    assert not layer.bias.any()


@pytest.mark.parametrize("layer_name", LAYERS)
def test_constants_fill_the_weights(layer_name):
    layer = LAYERS[layer_name][0]
    initialize(layer, "zeros", "relu", generator())
    assert not layer.weight.any()
    initialize(layer, parse({"kind": "constant", "value": -0.25}), "relu", generator())
    assert (layer.weight == -0.25).all()


@pytest.mark.parametrize("layer_name", LAYERS)
def test_orthogonal_weights_are_orthogonal_within_each_group(layer_name):
    layer = LAYERS[layer_name][0]
    initialize(layer, Orthogonal(gain=3.0), "relu", generator())
    weight, scale = layer.weight.detach().clone(), 3.0
    if isinstance(layer, nn.ConvTranspose2d):
        scale *= math.prod(layer.stride) ** 0.5
    for part in weight.chunk(getattr(layer, "groups", 1)):
        rows = part.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else part
        rows = rows.flatten(1) / scale
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    initialize(layer, "orthogonal", "relu", generator())
    torch.testing.assert_close(layer.weight * 3 / 2**0.5, weight)


@pytest.mark.parametrize("name", ["dirac", "identity"])
def test_dirac_and_identity_pass_the_input_on(name):
    signal = torch.randn(2, 6, 5, 5, generator=generator())
    for layer in (
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 5, padding=2, groups=3),
        nn.ConvTranspose2d(6, 6, 3, padding=1),
        nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2),
    ):
        initialize(layer, name, "relu", generator())
        assert torch.equal(layer(signal), signal)
    dense = nn.Linear(6, 4)
    initialize(dense, name, "relu", generator())
    assert torch.equal(dense(signal[:, :, 0, 0]), signal[:, :4, 0, 0])


def stack(kind, activation, depth):
    make = {
        "dense": lambda: nn.Linear(256, 256),
        "conv": lambda: nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"),
        "grouped": lambda: nn.Conv2d(256, 256, 3, padding=1, padding_mode="circular", groups=4),
    }[kind]
    layers = [layer for _ in range(depth) for layer in (make(), make_activation(activation))]
    return nn.Sequential(*[layer for layer in layers if layer is not None])


@pytest.mark.parametrize("kind", ["dense", "conv", "grouped"])
@pytest.mark.parametrize(
    ("activation", "initializer"),
    [
        ("relu", None),
        ("relu", "he_uniform"),
        ("relu", "orthogonal"),
        ("leaky_relu", None),
        ("selu", None),
        ("identity", None),
        ("identity", "lecun_uniform"),
    ],
)
@torch.no_grad()
def test_matched_initializers_keep_the_variance_through_a_deep_stack(kind, activation, initializer):
    net = stack(kind, activation, depth=16)
    initialize(net, initializer, activation, generator(1))
    shape = (64, 256) if kind == "dense" else (2, 64 if kind == "conv" else 256, 12, 12)
    signal = torch.randn(shape, generator=generator(2))
    output = net(signal)
    # He keeps the second moment, which a rectifier moves into the mean.
    assert 0.3 < output.square().mean() / signal.square().mean() < 3
    weak = stack(kind, activation, depth=16)
    initialize(weak, "normal", activation, generator(1))
    assert weak(signal).square().mean() < 0.1


@torch.no_grad()
def test_glorot_keeps_signals_alive_between_saturation_and_zero_under_tanh():
    for kind, shape in (("dense", (64, 256)), ("conv", (2, 64, 12, 12))):
        net = stack(kind, "tanh", depth=8)
        initialize(net, None, "tanh", generator(1))
        output = net(torch.randn(shape, generator=generator(2)))
        assert 0.05 < output.square().mean() < 0.6


@pytest.mark.parametrize("initializer", ["he_normal", "orthogonal"])
@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_activations_keep_their_size_through_strided_transposed_convolutions(initializer, groups):
    signal = torch.randn(8, 64, 8, 8, generator=generator())
    for _ in range(3):
        layer = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, groups=groups)
        initialize(layer, initializer, "relu", generator(1))
        signal = layer(signal).relu()
    # He keeps the second moment at that of the (unit variance) input.
    assert 0.4 < signal.square().mean().item() < 1.6


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [
        ("relu", "he_normal"),
        ("gelu", "he_normal"),
        ("tanh", "glorot_uniform"),
        ("sigmoid", "glorot_uniform"),
        ("selu", "lecun_normal"),
    ],
)
def test_the_default_follows_the_activation(activation, wanted):
    named, default = nn.Linear(50, 40), nn.Linear(50, 40)
    initialize(named, wanted, "identity", generator(3))
    initialize(default, None, activation, generator(3))
    assert default_initializer(activation) == wanted
    assert torch.equal(named.weight, default.weight)


def test_every_name_is_a_kind_that_draws_by_its_generator_alone():
    before = torch.get_rng_state()
    for name in get_args(InitializerName):
        config = parse(name)
        assert config == parse({"kind": name}) and config.kind == name
        layers = [nn.utils.skip_init(nn.Conv2d, 4, 6, 3) for _ in range(2)]
        for layer in layers:
            initialize(layer, config, "relu", generator())
        assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(torch.get_rng_state(), before)


class Holder(BaseModel):
    initializer: InitializerConfig | None = None


def test_configs_are_written_as_short_as_they_may_be_read():
    assert Holder(initializer="he_normal").model_dump(mode="json") == {"initializer": "he_normal"}
    assert Holder().model_dump(mode="json") == {"initializer": None}
    given = {"initializer": {"kind": "truncated_normal", "std": 0.5}}
    assert Holder.model_validate(given).initializer == TruncatedNormal(std=0.5)
    assert Holder.model_validate(given).model_dump(mode="json") == given
    schema = Holder.model_json_schema()
    choices = schema["properties"]["initializer"]["anyOf"]
    assert {"he_normal", "lsuv"} <= {name for c in choices for name in c.get("enum", ())}


@pytest.mark.parametrize(
    "value", ["he_norml", 3, {"kind": "he_normal", "std": 1}, {"kind": "normal", "std": 0}]
)
def test_what_is_no_initializer_is_refused(value):
    with pytest.raises(ValidationError):
        parse(value)
