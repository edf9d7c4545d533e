"""How far weights have grown: known growths, and encoders of which no growth can be told."""

import math

import pytest
import torch

from models.encoders import (
    ConvEncoderConfig,
    Encoder,
    EncoderConfig,
    InputContract,
    ResidualEncoderConfig,
    build_encoder,
)
from pretrain.weight_growth import weight_growth

CONTRACT = InputContract(channels=1, height=8, width=8, mean=(0.3,), std=(0.37,))
PLAIN = ConvEncoderConfig(widths=(8, 16), norm="none")


def encoder(config: EncoderConfig, seed: int) -> Encoder:
    return build_encoder(config, CONTRACT, seed=seed).eval()


@pytest.mark.parametrize(
    "config",
    [
        PLAIN,
        PLAIN.model_copy(update={"spectral_norm": True}),
        ResidualEncoderConfig(widths=(8, 16), norm="none"),
    ],
    ids=["plain", "spectral norm", "residual"],
)
def test_fresh_weights_have_hardly_grown(config: EncoderConfig) -> None:
    found = weight_growth(encoder(config, 1), encoder(config, 2))
    assert found.weight_growth == pytest.approx(1, abs=0.4)


def test_it_is_that_of_the_layer_that_has_grown_most() -> None:
    grown, fresh = encoder(PLAIN, 1), encoder(PLAIN, 1)
    for number, weight in enumerate(p for p in grown.parameters() if p.ndim == 4):
        weight.data.mul_(2.0 + number)
    assert weight_growth(grown, fresh).weight_growth == pytest.approx(3)


def test_biases_do_not_count() -> None:
    grown, fresh = encoder(PLAIN, 1), encoder(PLAIN, 1)
    for bias in (p for p in grown.parameters() if p.ndim == 1):
        bias.data.fill_(100)
    assert weight_growth(grown, fresh).weight_growth == pytest.approx(1)


def test_under_a_norm_the_size_of_weights_says_nothing() -> None:
    config = ConvEncoderConfig(widths=(8, 16), norm="batch")
    assert math.isnan(weight_growth(encoder(config, 1), encoder(config, 2)).weight_growth)


def test_with_spectral_norm_it_is_that_of_the_weights_in_use() -> None:
    config = PLAIN.model_copy(update={"spectral_norm": True})
    grown, fresh = encoder(config, 1), encoder(config, 1)
    state = grown.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if name.endswith("original"):
                weight.mul_(50)
    assert weight_growth(grown, fresh).weight_growth == pytest.approx(1, abs=0.01)
