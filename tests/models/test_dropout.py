"""Dropout by kind and stochastic depth: what is dropped, how often, and what stays the same."""

import pytest
import torch
from pydantic import BaseModel, TypeAdapter, ValidationError

from models.dropout import DropoutConfig, PlainDropout, StochasticDepth, make_dropout
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    EncoderConfig,
    InputContract,
    build_encoder,
)
from models.residual import ResidualBlock, ResidualEncoderConfig

CONTRACT = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
IMAGES = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
KINDS = ("plain", "spatial", "alpha")


def layer(kind, rate):
    torch.manual_seed(0)
    made = make_dropout(TypeAdapter(DropoutConfig).validate_python({"kind": kind, "rate": rate}))
    assert made is not None
    return made


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_plain_dropout_zeroes_each_activation_by_itself_and_scales_the_others(rate):
    given = torch.ones(64, 32, 8, 8)
    dropped = layer("plain", rate)(given)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    # Neighbours are independent: both are dropped with the square of the chance.
    both = (dropped[..., 1:] == 0) & (dropped[..., :-1] == 0)
    assert both.float().mean().item() == pytest.approx(rate**2, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_spatial_dropout_zeroes_whole_channels(rate):
    dropped = layer("spatial", rate)(torch.ones(256, 64, 3, 3)).flatten(2)
    assert torch.equal(dropped, dropped[..., :1].expand_as(dropped))
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_keeps_mean_and_variance_of_standardized_activations(rate):
    given = torch.randn(512, 512, generator=torch.Generator().manual_seed(1))
    dropped = layer("alpha", rate)(given)
    assert dropped.mean().item() == pytest.approx(0, abs=0.02)
    assert dropped.var().item() == pytest.approx(1, abs=0.02)
    lowest = dropped.flatten().mode().values
    assert lowest < 0
    assert (dropped == lowest).float().mean().item() == pytest.approx(rate, abs=0.01)
    # Torch's own at the same rate sets them to the same value.
    torch_own = torch.nn.AlphaDropout(rate)(given).flatten().mode().values
    assert lowest.item() == pytest.approx(torch_own.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_dropped_in_eval_mode_and_bf16_is_kept(kind):
    given = torch.randn(4, 6, 5, 5)
    made = layer(kind, 0.5)
    assert made(given.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(made.eval()(given), given)


@pytest.mark.slow
def test_a_compiled_self_normalizing_encoder_drops_as_an_eager_one():
    config = DenseEncoderConfig(widths=(64,), activation="selu", dropout={"kind": "alpha"})
    encoder = build_encoder(config, CONTRACT, seed=0)
    encoder.compile()
    features = encoder(torch.rand(256, 1, 16, 16))
    assert features.mean().item() == pytest.approx(0, abs=0.05)
    assert features.var().item() == pytest.approx(1, abs=0.05)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    drop = StochasticDepth(0.3)
    branch = torch.ones(20_000, 2, 1, 1)
    dropped = drop(branch).flatten(1)
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(branch), branch)


def test_stochastic_depth_rises_from_the_first_block_to_the_last():
    config = ResidualEncoderConfig(
        stem=4, widths=(4, 8), blocks=2, stochastic_depth=0.4, zero_init_residual=False
    )
    encoder = build_encoder(config, CONTRACT, seed=0)
    blocks = [part for part in encoder.modules() if isinstance(part, ResidualBlock)]
    assert [block.drop.p for block in blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert not torch.equal(encoder(IMAGES), encoder(IMAGES))
    encoder.eval()
    without = build_encoder(config.model_copy(update={"stochastic_depth": 0}), CONTRACT, seed=0)
    without.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(IMAGES), without.eval()(IMAGES))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ["conv", "dense", "residual"])
def test_every_encoder_takes_every_kind_that_suits_it(encoder, kind):
    values = {"kind": encoder, "widths": [8, 8], "dropout": {"kind": kind, "rate": 0.5}}
    adapter = TypeAdapter(EncoderConfig)
    if (encoder, kind) == ("dense", "spatial"):
        with pytest.raises(ValidationError, match=r"found dropout spatial, .* dense layers have"):
            adapter.validate_python(values)
        return
    values |= {"zero_init_residual": False} if encoder == "residual" else {}
    built = build_encoder(adapter.validate_python(values), CONTRACT, seed=0)
    assert not torch.equal(built(IMAGES), built(IMAGES))
    built.eval()
    assert torch.equal(built(IMAGES), built(IMAGES))


class Holder(BaseModel):
    dropout: DropoutConfig = PlainDropout(rate=0.0)


def test_a_number_is_plain_dropout_also_where_it_is_written():
    assert Holder(dropout=0.1).dropout == PlainDropout(rate=0.1)
    assert Holder(dropout=0.1).model_dump(mode="json") == {"dropout": 0.1}
    assert Holder().model_dump(mode="json") == {"dropout": 0.0}
    given = {"dropout": {"kind": "spatial", "rate": 0.2}}
    assert Holder.model_validate(given).model_dump(mode="json") == {
        "dropout": {"rate": 0.2, "kind": "spatial"}
    }
    for kind in KINDS:
        assert Holder.model_validate({"dropout": {"kind": kind}}).dropout.rate > 0
    for config in (ConvEncoderConfig, DenseEncoderConfig, ResidualEncoderConfig):
        assert config(dropout=0.25).model_dump(mode="json")["dropout"] == 0.25


@pytest.mark.parametrize(
    "value", [1, -0.1, "much", {"kind": "gaussian"}, {"kind": "alpha", "p": 0}]
)
def test_what_is_no_dropout_is_refused(value):
    with pytest.raises(ValidationError):
        Holder(dropout=value)
