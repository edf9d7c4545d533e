"""Norms by name, each in every encoder where it is sound; convolutions of one pixel."""

import subprocess
import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from models.encoders import EncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.layers import make_norm, same_conv
from tests.processes import environment

NORMS = ("batch", "layer", "group", "instance", "rms", "none")


def contract(side=16):
    return InputContract(channels=1, height=side, width=side, mean=(0.3,), std=(0.4,))


def parse(**values):
    return TypeAdapter(EncoderConfig).validate_python(values)


@pytest.mark.parametrize(
    ("norm", "axes"),
    [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3)), ("group", (2, 3, 4))],
)
def test_spatial_norms_standardize_over_their_own_axes(norm, axes):
    given = 3 + 2 * torch.randn(6, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    found = make_norm(norm, 16, spatial=True)(given)
    if norm == "group":
        found = found.unflatten(1, (8, 2))
    variance, mean = torch.var_mean(found, axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(6, 16), (6, 16, 5, 5)])
def test_rms_norm_divides_each_position_by_its_own_size_and_keeps_the_mean(shape):
    given = 3 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = make_norm("rms", 16, spatial=len(shape) == 4)(given)
    torch.testing.assert_close(
        found.square().mean(1), torch.ones(shape[:1] + shape[2:]), atol=1e-4, rtol=0
    )
    assert found.mean() > 0.8


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "encoder",
    [
        {"kind": "conv"},
        {"kind": "residual", "activation_order": "post"},
        {"kind": "residual", "activation_order": "pre"},
        {"kind": "dense"},
    ],
    ids=lambda values: values.get("activation_order", values["kind"]),
)
def test_every_norm_trains_in_every_encoder_that_has_its_axes(encoder, norm):
    values = {**encoder, "widths": (16, 16), "norm": norm}
    if encoder["kind"] == "dense" and norm == "instance":
        with pytest.raises(ValidationError, match=r"found norm instance, .* dense layers have"):
            parse(**values)
        return
    built = build_encoder(parse(**values), contract(), seed=0)
    optimizer = torch.optim.SGD(built.parameters(), lr=0.02)
    images = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.randn(built(images).shape, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (built(images) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # Features tell images apart, also one at a time.
    built.eval()
    alone = torch.cat([built(image[None]) for image in images])
    torch.testing.assert_close(alone, built(images), atol=1e-5, rtol=1e-4)
    assert alone.flatten(1).std(0).max() > 1e-3


@pytest.mark.parametrize(
    ("values", "side", "stage"),
    [
        ({"kind": "conv", "norm": "instance", "widths": (4, 4, 4)}, 8, "stage3"),
        ({"kind": "residual", "norm": "instance", "widths": (4, 4, 4)}, 8, "stage3"),
        ({"kind": "conv", "norm": "group", "widths": (16, 8)}, 4, "stage2"),
        ({"kind": "conv", "norm": "rms", "widths": (1, 8)}, 16, "stage1"),
        ({"kind": "dense", "norm": "layer", "widths": (8, 1)}, 4, "layer2"),
        ({"kind": "dense", "norm": "group", "widths": (8, 1)}, 4, "layer2"),
    ],
)
def test_a_norm_of_one_value_at_a_time_is_refused(values, side, stage):
    with pytest.raises(ModelError, match=f"norm: found {values['norm']}, .* {stage}: ") as caught:
        build_encoder(parse(**values), contract(side), seed=0)
    assert "\n" not in str(caught.value)
    lower = {**values, "widths": tuple(16 * width for width in values["widths"])}
    if values["norm"] != "instance":
        build_encoder(parse(**lower), contract(side), seed=0)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [7, 8])
def test_a_convolution_of_one_pixel_is_that_of_torch(stride, side):
    ours = same_conv(4, 6, 1, stride=stride)
    torch_own = nn.Conv2d(4, 6, 1, stride)
    torch_own.load_state_dict(ours.state_dict())
    images = torch.randn(3, 4, side, side)
    torch.testing.assert_close(ours(images), torch_own(images))


@pytest.mark.parametrize(
    "encoder",
    [
        {"kind": "residual", "stem": 4, "widths": [4, 5]},
        {"kind": "conv", "kernel_size": 1, "widths": [4, 5]},
    ],
    ids=["residual", "conv"],
)
def test_strided_convolutions_of_few_channels_stay_inside_their_memory(encoder):
    """In a process of its own: torch's strided convolution of one pixel ends it."""
    program = f"""
import torch
from models.encoders import EncoderConfig, InputContract, build_encoder
from pydantic import TypeAdapter

contract = InputContract(channels=3, height=16, width=16, mean=(0.3,) * 3, std=(0.4,) * 3)
config = TypeAdapter(EncoderConfig).validate_python({encoder})
encoder = build_encoder(config, contract, seed=0).to(memory_format=torch.channels_last)
for _ in range(60):
    images = torch.rand(32, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    encoder(images).square().mean().backward()
    spread = [torch.rand(900) for _ in range(20)]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
