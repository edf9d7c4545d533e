"""Encoders: stages, shapes, freezing, determinism and compilation."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    EncoderConfig,
    InputContract,
    build_encoder,
    check_images,
)
from models.errors import ModelError


def contract(channels=1, height=28, width=28, mean=0.3, std=0.4):
    return InputContract(
        channels=channels,
        height=height,
        width=width,
        mean=(mean,) * channels,
        std=(std,) * channels,
    )


CONFIGS = {
    "conv": ConvEncoderConfig(widths=(8, 16, 24)),
    "deep with stem": ConvEncoderConfig(
        widths=(8, 16), blocks=2, stem=4, norm="group", dropout=0.2
    ),
    "wide kernel, layer norm": ConvEncoderConfig(
        widths=(6, 8), kernel_size=5, norm="layer", activation="gelu"
    ),
    "plain conv": ConvEncoderConfig(widths=(6,), norm="none", activation="tanh"),
    "dense": DenseEncoderConfig(widths=(32, 16)),
    "dense without norm": DenseEncoderConfig(widths=(32, 16), norm="none", activation="sigmoid"),
}


def images(count, channels=1, height=28, width=28, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("size", [(1, 28, 28), (3, 13, 18)])
def test_every_stage_has_the_announced_shape_and_upto_stops_there(config, size):
    encoder = build_encoder(config, contract(*size), seed=0).eval()
    batch = images(2, *size)
    by_stage = encoder.stages(batch)
    assert list(by_stage) == encoder.stage_names
    for name, features in by_stage.items():
        assert tuple(features.shape[1:]) == encoder.output_shapes[name]
        assert torch.equal(encoder(batch, upto=name), features)
        assert list(encoder.stages(batch, upto=name))[-1] == name
    assert torch.equal(encoder(batch), by_stage[encoder.stage_names[-1]])


def test_stage_names_count_from_the_bottom():
    encoder = build_encoder(CONFIGS["deep with stem"], contract(), seed=0)
    assert encoder.stage_names == ["stem", "stage1", "stage2"]
    assert encoder.output_shapes == {
        "stem": (4, 28, 28),
        "stage1": (8, 14, 14),
        "stage2": (16, 7, 7),
    }
    assert build_encoder(CONFIGS["dense"], contract(), seed=0).stage_names == ["layer1", "layer2"]


def test_images_are_normalized_per_channel_before_the_first_stage():
    config = ConvEncoderConfig(widths=(4,), norm="none", activation="identity")
    two = InputContract(channels=2, height=8, width=8, mean=(0.2, 0.5), std=(0.1, 0.25))
    encoder = build_encoder(config, two, seed=1)
    batch = images(3, 2, 8, 8)
    mean, std = torch.tensor(two.mean).view(1, 2, 1, 1), torch.tensor(two.std).view(1, 2, 1, 1)
    torch.testing.assert_close(encoder(batch), encoder.blocks["stage1"]((batch - mean) / std))


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_encoder(CONFIGS["conv"], contract(), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (build_encoder(CONFIGS["conv"], contract(), seed=s) for s in (7, 8))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.blocks["stage1"][0].weight, other.blocks["stage1"][0].weight)


def test_a_frozen_encoder_never_moves_under_a_training_parent():
    encoder = build_encoder(ConvEncoderConfig(widths=(8, 8, 8), dropout=0.5), contract(), seed=0)
    parent = nn.Sequential(encoder, nn.Flatten(), nn.LazyLinear(2))
    parent(images(4))
    encoder.freeze(upto="stage2")
    parent.train(True)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(parent.parameters(), lr=0.5, weight_decay=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        parent(images(16, seed=seed)).square().mean().backward()
        optimizer.step()
    after = encoder.state_dict()
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"stage3"}
    assert encoder.frozen_stages == ["stage1", "stage2"]
    assert torch.equal(encoder(images(4), upto="stage2"), encoder(images(4), upto="stage2"))

    encoder.unfreeze("stage2")
    assert encoder.frozen_stages == ["stage1"]
    assert encoder.blocks["stage2"].training and not encoder.blocks["stage1"].training
    encoder.unfreeze()
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert all(module.training for module in encoder.modules())


def test_stage_parameters_cover_each_parameter_once():
    encoder = build_encoder(CONFIGS["deep with stem"], contract(), seed=0)
    grouped = encoder.stage_parameters()
    assert list(grouped) == encoder.stage_names
    listed = [parameter for stage in grouped.values() for parameter in stage]
    assert {id(p) for p in listed} == {id(p) for p in encoder.parameters()}
    assert len(listed) == len(list(encoder.parameters()))


def test_wrong_images_and_stages_are_named():
    encoder = build_encoder(CONFIGS["conv"], contract(), seed=0)
    with pytest.raises(ModelError, match=r"1x28x28 .* got 3x64x64"):
        encoder(images(1, 3, 64, 64))
    with pytest.raises(ModelError, match=r"3x28x28"):
        check_images(encoder, 3, 28, 28)
    check_images(encoder.input, 1, 28, 28)
    with pytest.raises(
        ModelError, match=r"no stage 'stage4': the stages are stage1, stage2, stage3"
    ):
        encoder.stages(images(1), upto="stage4")
    with pytest.raises(ModelError, match="uint8: divide by 255"):
        encoder(images(1).mul(255).to(torch.uint8))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "conv", "widths": []},
        {"kind": "conv", "kernel_size": 4},
        {"kind": "conv", "depth": 3},
        {"kind": "dense", "kernel_size": 3},
        {"kind": "dense", "norm": "instance"},
        {"kind": "residual", "kernel_size": 2},
        {"kind": "residual", "stochastic_depth": 1},
        {"kind": "mlp"},
        {"kind": "conv", "widths": [10**18]},
    ],
)
def test_specs_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        TypeAdapter(EncoderConfig).validate_python(values)


def test_every_kind_is_valid_without_further_values():
    for kind in ("conv", "residual", "convnext", "vit", "dense"):
        config = TypeAdapter(EncoderConfig).validate_python({"kind": kind})
        assert build_encoder(config, contract(), seed=0)(images(2)).shape[0] == 2


def test_channels_last_gives_the_same_features():
    encoder = build_encoder(CONFIGS["conv"], contract(3), seed=0).eval()
    batch = images(4, 3)
    plain = encoder(batch)
    encoder = encoder.to(memory_format=torch.channels_last)
    fast = encoder(batch.contiguous(memory_format=torch.channels_last))
    assert fast.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("name", ["conv", "dense"])
def test_one_graph_also_when_frozen(name):
    encoder = build_encoder(CONFIGS[name], contract(), seed=0)
    encoder.freeze(encoder.stage_names[0])
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    encoder.eval()
    torch.testing.assert_close(compiled(images(3)), encoder(images(3)))
    compiled.train()
    assert not encoder.blocks[encoder.stage_names[0]].training
    compiled(images(3)).sum().backward()
