"""The diagnosis of fresh weights: classic facts on real digits, and figures computed by hand."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.diagnosis import (
    LayerHealth,
    MeasuredLayer,
    Verdict,
    diagnose,
    measured_layers,
    overall,
)
from models.diagnosis_networks import STACK, combinations, parse_activations, parse_initializers
from models.dropout import PlainDropout
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
from training.health import HealthProbe
from training.optimizers import SGDConfig
from training.randomness import StepDraws
from training.trainable import Batch, Phase, Trainable


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """128 digits, 8 x 8 pixels doubled, in [0, 1]."""
    pixels = np.kron(load_digits().images[:128], np.ones((2, 2))) / 16
    return torch.from_numpy(pixels).float().unsqueeze(1)


def fresh(config: EncoderConfig, images: Tensor) -> Encoder:
    contract = InputContract(
        channels=1,
        height=images.shape[2],
        width=images.shape[3],
        mean=(images.mean().item(),),
        std=(images.std().item(),),
    )
    return build_encoder(config, contract, seed=0, images=images)


def health_of(config: EncoderConfig, images: Tensor) -> list[LayerHealth]:
    encoder = fresh(config, images)
    return diagnose(encoder, measured_layers(encoder), images)


@pytest.mark.parametrize(
    ("initializer", "activation", "expected"),
    [
        ("normal:std=1", "sigmoid", "saturated"),
        ("normal:std=1", "tanh", "saturated"),
        ("normal:std=1", "relu", "exploding"),
        ("normal:std=0.01", "sigmoid", "vanishing"),
        ("normal:std=0.01", "tanh", "vanishing"),
        ("normal:std=0.01", "relu", "vanishing"),
        ("glorot_normal", "sigmoid", "vanishing"),
        ("glorot_normal", "tanh", "healthy"),
        ("glorot_normal", "relu", "vanishing"),
        ("he_normal", "relu", "healthy"),
        ("zeros", "relu", "dead"),
    ],
)
def test_a_deep_stack_has_the_known_verdict(
    initializer: str, activation: str, expected: Verdict, digits: Tensor
) -> None:
    (config,) = combinations(
        STACK, parse_initializers([initializer]), parse_activations([activation])
    )
    layers = health_of(config, digits)
    assert len(layers) == 10
    verdict, extent = overall(layers)
    assert verdict == expected
    if expected == "healthy":
        assert extent == "all 10 layers"


def test_the_lowest_layers_get_the_least_gradient_where_it_vanishes(digits: Tensor) -> None:
    config = STACK.model_copy(update={"activation": "sigmoid"})
    gradients = [layer.gradient for layer in health_of(config, digits)]
    assert gradients == sorted(gradients)
    assert gradients[0] < 1e-4 * gradients[-1]


@pytest.mark.parametrize(
    "config",
    [
        DenseEncoderConfig(widths=(512, 32, 512, 32, 512), norm="none"),
        ConvEncoderConfig(widths=(8, 16, 32, 64), norm="none"),
    ],
)
def test_he_is_healthy_too_where_widths_change(config: EncoderConfig, digits: Tensor) -> None:
    assert overall(health_of(config, digits))[0] == "healthy"


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def test_figures_of_two_layers_equal_those_computed_by_hand() -> None:
    network = nn.Sequential(
        linear([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0]], [0.0, 1.0, -50.0]),
        nn.ReLU(),
        linear([[3.0, 0.0, 9.0], [0.0, 3.0, 9.0]], [0.0, 0.0]),
        nn.ReLU(),
    )
    layers = [MeasuredLayer("low", ("0", "1")), MeasuredLayer("high", ("2", "3"))]
    images = torch.tensor([[1.0, 1.0], [3.0, 2.0]])
    low, high = diagnose(network, layers, images)

    # Outputs of low: (2, 5, 0) and (6, 9, 0); of high: (6, 15) and (18, 27).
    assert low.mean == pytest.approx(22 / 6)
    assert low.std == pytest.approx(math.sqrt((4 + 25 + 36 + 81) / 6 - (22 / 6) ** 2))
    assert (low.zeros, low.dead) == pytest.approx((1 / 3, 1 / 3))
    assert (high.zeros, high.dead, high.saturated) == (0, 0, None)
    # Half the difference between two images is their standard deviation.
    input_signal = math.sqrt((1.0**2 + 0.5**2) / 2)
    assert low.signal == pytest.approx(math.sqrt((2**2 + 2**2 + 0) / 3))
    assert low.signal_ratio == pytest.approx(low.signal / input_signal)
    assert high.signal_ratio == pytest.approx(6 / input_signal)
    # Both units of high pass the gradient g, so that low gets 3 g, and 9 (g1 + g2) at unit 3.
    drawn = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double()
    assert high.gradient == pytest.approx(math.sqrt(drawn.square().sum() / 2))
    ninefold = (9 * drawn.sum(dim=1)).square().sum()
    assert low.gradient == pytest.approx(
        math.sqrt((9 * drawn.square().sum() + ninefold) / 2), rel=1e-6
    )
    by_weights = drawn.T @ torch.tensor([[2.0, 5.0, 0.0], [6.0, 9.0, 0.0]]).double() / 2
    by_biases = drawn.mean(dim=0)
    assert high.parameter_gradient == pytest.approx(
        math.sqrt(by_weights.square().sum() + by_biases.square().sum()), rel=1e-6
    )
    assert high.gradient_ratio == 1
    assert low.gradient_ratio == pytest.approx(low.gradient / high.gradient)


def test_outputs_near_a_bound_are_saturated() -> None:
    network = nn.Sequential(linear([[1.0]], [0.0]), nn.Sigmoid(), linear([[1.0]], [0.0]), nn.Tanh())
    layers = [MeasuredLayer("sigmoid", ("0", "1")), MeasuredLayer("tanh", ("2", "3"))]
    images = torch.tensor([[-4.0], [-1.0], [0.0], [5.0]])  # sigmoid: 0.018, 0.27, 0.5, 0.993
    sigmoid, tanh = diagnose(network, layers, images)
    assert sigmoid.saturated == 0.5
    assert tanh.saturated == 0  # tanh(0.993) = 0.76


def test_a_channel_is_dead_only_if_it_is_zero_at_every_position() -> None:
    conv = nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.copy_(torch.tensor([0.0, -0.5, -2.0]))
    images = torch.zeros(2, 1, 3, 3)
    images[1, 0, 2, 1] = 1.0
    (layer,) = diagnose(nn.Sequential(conv, nn.ReLU()), [MeasuredLayer("a", ("0", "1"))], images)
    assert layer.dead == pytest.approx(1 / 3)
    assert layer.zeros == pytest.approx(52 / 54)


def test_a_network_whose_units_never_fire_is_called_dead(digits: Tensor) -> None:
    encoder = fresh(ConvEncoderConfig(widths=(8, 16), norm="none"), digits)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, -100.0)
    layers = diagnose(encoder, measured_layers(encoder), digits)
    assert [layer.verdict for layer in layers] == ["dead", "dead"]
    assert overall(layers) == ("dead", "2 of 2 layers")
    assert "100 % of units" in layers[0].findings[0][1]


def test_values_beyond_float32_explode(digits: Tensor) -> None:
    (config,) = combinations(
        STACK, parse_initializers(["normal:std=1e10"]), parse_activations(["relu"])
    )
    layers = health_of(config, digits)
    assert not math.isfinite(layers[-1].std)
    assert {layer.verdict for layer in layers} == {"exploding"}


@pytest.mark.parametrize(
    "config",
    [
        ConvEncoderConfig(widths=(8,), dropout=PlainDropout(rate=0.5)),
        ResidualEncoderConfig(
            stem=8, widths=(8, 8), stochastic_depth=0.5, zero_init_residual=False
        ),
    ],
)
def test_nothing_is_left_to_chance_and_the_network_stays_as_it_is(
    config: EncoderConfig, digits: Tensor
) -> None:
    encoder = fresh(config, digits).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    layers = measured_layers(encoder)
    first = diagnose(encoder, layers, digits)
    torch.manual_seed(1)
    random_state = torch.get_rng_state()
    second = diagnose(encoder, layers, digits)
    assert [(a.std, a.gradient) for a in first] == [(b.std, b.gradient) for b in second]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_are_named_by_stage_and_hold_its_parts(digits: Tensor) -> None:
    deep = fresh(ConvEncoderConfig(widths=(8, 8), blocks=2, stem=4), digits)
    assert [layer.name for layer in measured_layers(deep)] == [
        "stem",
        "stage1.1",
        "stage1.2",
        "stage2.1",
        "stage2.2",
    ]
    residual = fresh(ResidualEncoderConfig(stem=8, widths=(8,), activation_order="pre"), digits)
    layers = measured_layers(residual)
    assert [layer.name for layer in layers] == ["stem", "stage1.1", "stage1.2"]
    # The norm and the activation above the last block belong to it.
    assert len(layers[-1].modules) == 3


class EncoderOnly(Trainable):
    """A Trainable whose stages are those of an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def stages(self) -> Mapping[str, nn.Module]:
        return dict(self.encoder.blocks.items())

    def phases(self) -> list[Phase]:
        return [Phase("only", list(self.named_parameters()), SGDConfig(), self._loss)]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        return self.encoder(batch["images"]).mean(), {}


@pytest.mark.parametrize(
    ("activation", "scale", "shift", "signal", "complains"),
    [
        ("tanh", 1.0, 0.0, "saturated", False),
        ("tanh", 40.0, 0.0, "saturated", True),
        ("sigmoid", 60.0, 0.0, "saturated", True),
        ("relu", 1.0, 0.0, "dead", False),
        ("relu", 1.0, -9.0, "dead", True),
    ],
)
def test_before_training_and_in_training_the_same_is_called_unhealthy(
    activation: str, scale: float, shift: float, signal: str, complains: bool, digits: Tensor
) -> None:
    config = ConvEncoderConfig(widths=(16, 16), norm="none").model_copy(
        update={"activation": activation}
    )
    encoder = fresh(config, digits)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.add_(shift) if name.endswith("bias") else parameter.mul_(scale)
    layers = diagnose(encoder, measured_layers(encoder), digits)
    probe = HealthProbe(EncoderOnly(encoder))
    shares = {
        name: share.item() for name, share in probe.activations(lambda: encoder(digits)).items()
    }
    for layer in layers:
        here = layer.dead if signal == "dead" else layer.saturated
        assert shares[f"health/{signal}/{layer.name}"] == pytest.approx(here, abs=1e-4)
        assert complains == (layer.verdict == signal)
    assert len(probe.warnings(shares, lr_factor=1.0)) == (len(layers) if complains else 0)


def test_images_that_cannot_be_compared_are_refused(digits: Tensor) -> None:
    encoder = fresh(DenseEncoderConfig(widths=(8,)), digits)
    layers = measured_layers(encoder)
    with pytest.raises(ModelError, match="give 2 or more, got 1"):
        diagnose(encoder, layers, digits[:1])
    with pytest.raises(ModelError, match="do not differ"):
        diagnose(encoder, layers, digits[:1].expand(4, -1, -1, -1))
