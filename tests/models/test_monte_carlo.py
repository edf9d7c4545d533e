"""Monte Carlo dropout: what draws, what stays, and what the average is."""

import pytest
import torch

from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.heads import Classifier
from models.monte_carlo import mean_log_probabilities, sample_logits, sampling_dropout
from models.residual import ResidualEncoderConfig

CONTRACT = InputContract(channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
IMAGES = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def classifier(config=None, dropout=0.5):
    config = config or ConvEncoderConfig(widths=(4, 6), dropout=0.2)
    return Classifier(build_encoder(config, CONTRACT, seed=0), 3, grid=2, dropout=dropout)


@torch.no_grad()
def sample(model, samples=4, seed=0):
    with sampling_dropout(model, seed=seed):
        return sample_logits(model, IMAGES, samples)


@pytest.mark.parametrize("head", [0.0, 0.5])
@pytest.mark.parametrize(
    "config",
    [
        ConvEncoderConfig(widths=(4, 6), dropout=0.2),
        ConvEncoderConfig(widths=(4, 6), dropout={"kind": "spatial", "rate": 0.2}),
        ResidualEncoderConfig(stem=4, widths=(4,), stochastic_depth=0.3, zero_init_residual=False),
    ],
    ids=["plain", "spatial", "stochastic depth"],
)
def test_passes_differ_and_depend_on_the_seed_alone(config, head):
    model = classifier(config, dropout=head)
    first = sample(model)
    assert first.shape == (4, 12, 3)
    assert len({logits.sum().item() for logits in first}) == 4
    torch.manual_seed(99)
    assert torch.equal(sample(model), first)
    assert not torch.equal(sample(model, seed=1), first)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_moves(training):
    model = classifier().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    sample(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(part.training == training for part in model.modules())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_batch_norm_uses_its_running_statistics():
    model = classifier(dropout=1e-9)  # the head draws, and hardly ever drops
    model.encoder.freeze()
    torch.testing.assert_close(sample(model, 1)[0], model.eval()(IMAGES))


def test_frozen_stages_do_not_draw():
    model = classifier(dropout=0.0)
    model.encoder.freeze()
    logits = sample(model)
    assert torch.equal(logits, model.eval()(IMAGES).expand_as(logits))
    model.encoder.unfreeze()
    assert not torch.equal(sample(model), logits)


def test_an_encoder_that_does_not_draw_is_passed_once():
    model = classifier(ConvEncoderConfig(widths=(4, 6)))
    calls = []
    model.encoder.blocks["stage1"].register_forward_hook(lambda *_: calls.append(1))
    logits = sample(model, samples=2000)
    assert len(calls) == 1
    # What dropout keeps is scaled, so that a linear head's mean is its output without dropout.
    torch.testing.assert_close(logits.mean(0), model.eval()(IMAGES), atol=0.05, rtol=0)


def test_averages_are_of_probabilities():
    logits = 3 * torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    logarithms = mean_log_probabilities(logits)
    torch.testing.assert_close(logarithms.exp(), logits.softmax(2).mean(0))
    torch.testing.assert_close(logarithms.softmax(1), logits.softmax(2).mean(0))
    assert torch.isfinite(mean_log_probabilities(logits * 1e4)).all()
