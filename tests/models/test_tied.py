"""Tied weights: a decoder that is the transpose of its encoder, whose weights it does not own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoders import Decoder, MirrorDecoderConfig, build_decoder
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    Encoder,
    EncoderConfig,
    InputContract,
    build_encoder,
)
from models.errors import ModelError
from models.residual import ResidualEncoderConfig
from models.vit import VitEncoderConfig


def build(
    config: EncoderConfig, height: int = 8, width: int = 8, **decoder: object
) -> tuple[Encoder, Decoder]:
    contract = InputContract(channels=2, height=height, width=width, mean=(0, 0), std=(1, 1))
    encoder = build_encoder(config, contract, seed=0)
    decoder_config = MirrorDecoderConfig(tied=True, **decoder)  # type: ignore[arg-type]
    return encoder, build_decoder(decoder_config, encoder, seed=1)


def images(height: int = 8, width: int = 8) -> Tensor:
    return torch.rand(3, 2, height, width, generator=torch.Generator().manual_seed(0))


def test_dense_layers_are_those_of_the_encoder_transposed() -> None:
    encoder, decoder = build(DenseEncoderConfig(widths=(9, 5), norm="none", activation="sigmoid"))
    weights = [m.weight for m in encoder.modules() if isinstance(m, nn.Linear)]
    biases = dict(decoder.named_parameters())
    assert [tuple(bias.shape) for bias in biases.values()] == [(9,), (128,)]
    for bias in biases.values():
        nn.init.normal_(bias, generator=torch.Generator().manual_seed(2))
    lower, upper = biases.values()
    code = encoder(images())
    hidden = torch.sigmoid(code @ weights[1] + lower)
    torch.testing.assert_close(decoder(code).flatten(1), hidden @ weights[0] + upper)


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize(
    "values", [{}, {"blocks": 2, "stem": 3, "kernel_size": 5}], ids=["plain", "blocks and stem"]
)
def test_convolutions_are_the_adjoint_of_the_encoders(
    values: dict[str, int], size: tuple[int, int]
) -> None:
    """Of a linear encoder f without biases: <f(x), h> = <x, g(h)> for every x and h."""
    config = ConvEncoderConfig(widths=(4, 6), norm="none", activation="identity", **values)  # type: ignore[arg-type]
    encoder, decoder = build(config, *size)
    x = images(*size)
    code = encoder(x)
    h = torch.randn(code.shape, generator=torch.Generator().manual_seed(3))
    assert decoder(h).shape == x.shape
    torch.testing.assert_close((code * h).sum(), (x * decoder(h)).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        DenseEncoderConfig(widths=(9, 5), norm="layer", activation="tanh"),
        ConvEncoderConfig(widths=(4, 6), norm="group", activation="gelu"),
    ],
    ids=lambda config: config.kind,
)
def test_both_ways_of_the_gradient_reach_the_one_weight(config: EncoderConfig) -> None:
    encoder, decoder = build(config)
    encoder.double()
    decoder.double()
    weight = next(m for m in encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)).weight

    def loss() -> Tensor:
        return F.mse_loss(decoder(encoder(images().double())), images().double())

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)).double()
    with torch.no_grad():
        weight.add_(1e-6 * direction)
        above = loss()
        weight.sub_(2e-6 * direction)
        below = loss()
    expected = (above - below).item() / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)
    assert all(p is not weight for p in decoder.parameters())


def test_a_copy_of_both_is_tied_to_itself() -> None:
    pair = nn.ModuleDict(dict(zip(("encoder", "decoder"), build(ConvEncoderConfig()), strict=True)))
    assert not [name for name in pair["decoder"].state_dict() if name.endswith("0.weight")]
    twin = copy.deepcopy(pair).eval()
    pair.eval()
    with torch.no_grad():
        for parameter in pair["encoder"].parameters():
            parameter.zero_()
    code = torch.rand(2, 128, 1, 1)
    assert pair["decoder"](code).std() == 0
    assert twin["decoder"](code).std() > 0


@pytest.mark.parametrize(
    ("config", "values", "complaint"),
    [
        (ResidualEncoderConfig(), {}, "encoder.kind 'residual'"),
        (VitEncoderConfig(), {}, "encoder.kind 'vit'"),
        (ConvEncoderConfig(spectral_norm=True), {}, "encoder.spectral_norm"),
        (ConvEncoderConfig(), {"upsampling": "nearest"}, "decoder.upsampling 'nearest'"),
        (ConvEncoderConfig(kernel_size=1), {}, "encoder's kernel_size 1"),
    ],
)
def test_what_cannot_be_tied_is_refused(
    config: EncoderConfig, values: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ModelError) as error:
        build(config, **values)
    assert complaint in str(error.value) and "\n" not in str(error.value)
