"""Spectral norm: the largest singular value of every weight is 1, and the artifact needs none."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.artifact import load_encoder, read_artifact, save_encoder
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    EncoderConfig,
    InputContract,
    build_encoder,
)
from models.residual import ResidualEncoderConfig

CONTRACT = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
CONFIGS = {
    "conv": ConvEncoderConfig(widths=(6, 8), stem=4, norm="none", spectral_norm=True),
    "residual": ResidualEncoderConfig(stem=4, widths=(4, 8), spectral_norm=True),
    "dense": DenseEncoderConfig(widths=(32, 16), spectral_norm=True),
}


def images(seed=0):
    return torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def trained(config, steps=30):
    encoder = build_encoder(config, CONTRACT, seed=0)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        (encoder(images(step)).mean() - 3).square().backward()
        optimizer.step()
    return encoder


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_largest_singular_value_stays_one_in_training(config):
    encoder = trained(config).eval()
    layers = [part for part in encoder.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) >= 2
    for layer in layers:
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, rel=0.03)
    free = trained(config.model_copy(update={"spectral_norm": False}))
    largest = [
        torch.linalg.svdvals(part.weight.flatten(1))[0].item()
        for part in free.modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    assert max(largest) > 1.5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_artifact_gives_the_same_features_without_it(config, tmp_path):
    encoder = trained(config, steps=3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder, trained_on={"fingerprint": "ab", "images": 8}, config={})
    assert all(value.equal(before[name]) for name, value in encoder.state_dict().items())
    assert all(part.training for part in encoder.modules())

    assert not read_artifact(path).spec.spectral_norm
    loaded, encoder = load_encoder(path), encoder.eval()
    assert not any("parametrizations" in name for name in loaded.state_dict())
    for name, features in encoder.stages(images()).items():
        assert torch.equal(loaded(images(), upto=name), features)


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first = build_encoder(CONFIGS["conv"], CONTRACT, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = build_encoder(CONFIGS["conv"], CONTRACT, seed=3)
    assert all(v.equal(again.state_dict()[name]) for name, v in first.state_dict().items())


def test_frozen_stages_never_move():
    encoder = build_encoder(CONFIGS["conv"], CONTRACT, seed=0)
    encoder.freeze("stage1")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    encoder(images()).sum().backward()
    moved = {n.split(".")[1] for n, v in encoder.state_dict().items() if not v.equal(before[n])}
    assert moved == {"stage2"}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"kind": "conv", "initializer": "lsuv"}, "initializer lsuv"),
        ({"kind": "dense", "initializer": "zeros"}, "initializer zeros"),
        (
            {"kind": "conv", "initializer": {"kind": "constant", "value": 0}},
            "initializer constant",
        ),
        ({"kind": "residual", "activation_order": "pre"}, "zero_init_residual"),
        ({"kind": "residual", "norm": "none"}, "zero_init_residual"),
    ],
)
def test_weights_without_a_scale_are_refused(values, found):
    with pytest.raises(ValidationError, match=found) as caught:
        TypeAdapter(EncoderConfig).validate_python({**values, "spectral_norm": True})
    (error,) = caught.value.errors()
    assert "\n" not in error["msg"]
