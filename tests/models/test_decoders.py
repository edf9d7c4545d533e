"""Decoders: exact sizes, initialization, training and compilation."""

import pytest
import torch
from torch import nn

from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.errors import ModelError


def build(config, channels, height, width, upsampling="transposed", seed=0):
    contract = InputContract(
        channels=channels, height=height, width=width, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    encoder = build_encoder(config, contract, seed=seed)
    decoder = build_decoder(MirrorDecoderConfig(upsampling=upsampling), encoder, seed=seed + 1)
    return encoder, decoder


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("size", [(28, 28), (7, 4), (13, 30), (1, 2), (33, 17)])
@pytest.mark.parametrize(
    "config",
    [
        ConvEncoderConfig(widths=(4, 6, 8)),
        ConvEncoderConfig(widths=(4, 6), blocks=2, stem=3, kernel_size=5, norm="layer"),
        DenseEncoderConfig(widths=(9, 5)),
        DenseEncoderConfig(widths=(9,), norm="none"),
    ],
    ids=["conv", "conv with stem", "dense", "one dense layer"],
)
def test_output_has_exactly_the_size_of_the_image(config, size, upsampling):
    encoder, decoder = build(config, 3, *size, upsampling)
    batch = torch.rand(2, 3, *size)
    assert decoder(encoder.eval()(batch)).shape == batch.shape


def test_transposed_convolutions_of_one_pixel_are_refused():
    config = ConvEncoderConfig(widths=(4,), kernel_size=1)
    with pytest.raises(ModelError, match=r"decoder.upsampling: found transposed .* nearest"):
        build(config, 3, 8, 8)
    encoder, decoder = build(config, 3, 8, 8, "nearest")
    assert decoder(encoder(torch.rand(2, 3, 8, 8))).shape == (2, 3, 8, 8)


def test_output_is_raw_and_its_layer_is_drawn_by_glorot():
    encoder, decoder = build(ConvEncoderConfig(widths=(64, 96)), 3, 28, 28)
    batch = torch.rand(16, 3, 28, 28)
    output = decoder(encoder(batch))
    assert output.min() < 0
    (last,) = decoder.output
    assert isinstance(last, nn.ConvTranspose2d)
    bound = (6 / (64 * 9 / 4 + 3 * 9)) ** 0.5
    assert 0.95 * bound < last.weight.abs().max().item() <= bound
    hidden = next(m for m in decoder.hidden.modules() if isinstance(m, nn.ConvTranspose2d))
    assert hidden.weight.var().item() == pytest.approx(2 / (96 * 9 / 4), rel=0.05)


def test_weights_depend_on_the_seed_alone():
    before = torch.get_rng_state()
    _, first = build(ConvEncoderConfig(widths=(4, 6)), 1, 9, 9)
    _, again = build(ConvEncoderConfig(widths=(4, 6)), 1, 9, 9)
    _, other = build(ConvEncoderConfig(widths=(4, 6)), 1, 9, 9, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not torch.equal(first.output[-1].weight, other.output[-1].weight)


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_an_autoencoder_of_both_learns_to_copy_a_few_images(upsampling):
    encoder, decoder = build(ConvEncoderConfig(widths=(16, 32)), 1, 14, 14, upsampling)
    batch = torch.rand(8, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    batch = torch.nn.functional.interpolate(batch, size=14)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
    for _ in range(150):
        loss = torch.nn.functional.mse_loss(decoder(encoder(batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * batch.var()


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_one_graph(upsampling):
    encoder, decoder = build(ConvEncoderConfig(widths=(4, 6)), 1, 9, 9, upsampling)
    features = encoder(torch.rand(2, 1, 9, 9)).detach()
    compiled = torch.compile(decoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(features), decoder(features))
