"""Health: values against hand-computed ones, no trace of the measurement, warnings said once."""

import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training.health import HealthConfig, HealthProbe
from training.optimizers import SGDConfig
from training.randomness import StepDraws
from training.trainable import Batch, Phase, Trainable


class Stages(Trainable):
    """Modules one after the other, each a stage of its own."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.chain = nn.ModuleDict(modules)

    def stages(self) -> Mapping[str, nn.Module]:
        return dict(self.chain.items())

    def phases(self) -> list[Phase]:
        return [Phase("only", list(self.named_parameters()), SGDConfig(), self._loss)]

    def _loss(self, batch: Batch, draws: StepDraws) -> tuple[Tensor, dict[str, Tensor]]:
        return self.run(batch["images"]).square().mean(), {}

    def run(self, images: Tensor) -> Tensor:
        for module in self.chain.values():
            images = module(images)
        return images


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_gradient_norms_are_those_of_each_stage() -> None:
    net = Stages(low=linear([[1.0, 0.0]], [0.0]), high=linear([[2.0]]), idle=nn.ReLU())
    net.chain["low"].weight.grad = torch.tensor([[2.0, 3.0]])
    net.chain["low"].bias.grad = torch.tensor([6.0])
    assert {k: v.item() for k, v in HealthProbe(net).gradient_norms().items()} == {
        "health/grad_norm/low": 7.0  # sqrt(4 + 9 + 36); `high` has no gradient
    }


def test_update_ratios_compare_the_change_with_the_weights_before() -> None:
    net = Stages(low=linear([[3.0, 4.0]]), high=linear([[2.0]]), frozen=linear([[1.0]]))
    net.chain["frozen"].requires_grad_(False)
    probe = HealthProbe(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.chain["low"].weight.grad = torch.tensor([[6.0, 8.0]])
    probe.remember_weights()
    optimizer.step()
    ratios = probe.update_ratios()
    assert ratios.keys() == {"health/update_ratio/low"}
    assert ratios["health/update_ratio/low"].item() == pytest.approx(0.1 * 10 / 5)


def test_a_dense_unit_is_dead_if_it_is_zero_on_every_row() -> None:
    weights = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 1.0]]
    net = Stages(only=nn.Sequential(linear(weights, [0.0, 0.0, 0.0, -2.5]), nn.ReLU(inplace=True)))
    rows = torch.tensor([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])  # only the second reaches unit 3
    shares = HealthProbe(net).activations(lambda: net.run(rows))
    assert {k: v.item() for k, v in shares.items()} == {"health/dead/only": 0.25}


def test_a_channel_is_dead_if_it_is_zero_at_every_position() -> None:
    conv = nn.Conv2d(1, 4, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.copy_(torch.tensor([0.0, -0.5, -2.0, -3.0]))
    images = torch.zeros(2, 1, 3, 3)
    images[1, 0, 2, 1] = 1.0
    net = Stages(conv=nn.Sequential(conv, nn.ReLU6()), plain=nn.Identity())
    shares = HealthProbe(net).activations(lambda: net.run(images))
    assert {k: v.item() for k, v in shares.items()} == {"health/dead/conv": 0.5}


def test_a_unit_that_is_active_in_one_of_several_calls_is_not_dead() -> None:
    net = Stages(only=nn.Sequential(linear([[1.0], [-1.0]]), nn.ReLU()))
    probe = HealthProbe(net)

    def run(*values: float) -> float:
        shares = probe.activations(lambda: [net.run(torch.tensor([[v]])) for v in values])
        return shares["health/dead/only"].item()

    assert run(1.0) == run(-1.0) == 0.5
    assert run(1.0, -1.0) == run(-1.0, 1.0) == 0.0


def test_saturation_is_within_five_percent_of_the_ends_of_the_range() -> None:
    sigmoid = torch.tensor([[0.04, 0.06, 0.5, 0.96]])
    tanh = torch.tensor([[-0.92, -0.88, 0.0, 0.88, 0.92]])
    net = Stages(gate=nn.Sigmoid(), squash=nn.Tanh(), linear=nn.Linear(1, 1))

    def run() -> None:
        net.chain["gate"](sigmoid.logit())
        net.chain["squash"](tanh.atanh())

    shares = HealthProbe(net).activations(run)
    assert shares["health/saturated/gate"].item() == 0.5
    assert shares["health/saturated/squash"].item() == pytest.approx(0.4)
    assert len(shares) == 2


class Forgetful(nn.Module):
    """Replaces its buffer in every forward instead of changing it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4))

    def forward(self, values: Tensor) -> Tensor:
        self.last = values.mean(0).detach()
        return values


class Block(nn.Sequential):
    """Modules one after the other, with a forward that torch.compile does not pass over."""

    def forward(self, values: Tensor) -> Tensor:
        for module in self:
            values = module(values)
        return values


def restless() -> Stages:
    """A network whose every forward in train mode draws numbers and moves buffers."""
    torch.manual_seed(0)
    lower = Block(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))
    return Stages(lower=lower, upper=Block(nn.Dropout(0.5), nn.Linear(4, 4), Forgetful()))


def test_activations_leave_no_trace() -> None:
    net = restless()
    rows = torch.randn(16, 6)
    buffers = dict(net.named_buffers())
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    state = torch.get_rng_state()
    seen = []
    HealthProbe(net).activations(lambda: seen.append(net.run(rows)))

    assert torch.equal(torch.get_rng_state(), state)
    for name, buffer in net.named_buffers():
        assert buffer is buffers[name]
        assert torch.equal(buffer, values[name]), name
    assert all(module.training for module in net.modules())
    torch.set_rng_state(state)
    assert torch.equal(net.run(rows), seen[0])  # it was a forward in train mode, dropout and all
    assert net.chain["lower"][1].num_batches_tracked == 1


def test_a_failed_forward_leaves_no_trace_either() -> None:
    net = restless()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}

    def fail() -> None:
        net.run(torch.randn(16, 6))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        HealthProbe(net).activations(fail)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert not any(module._forward_hooks for module in net.modules())


def test_modules_compiled_in_place_are_seen_and_not_compiled_anew() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(1)
        return graph.forward

    net = restless()
    rows = torch.randn(16, 6)
    expected = HealthProbe(net).activations(lambda: net.run(rows[:8]))
    for stage in net.stages().values():
        stage.compile(backend=backend)
    net.run(rows).sum().backward()
    count = len(compiled)
    assert count >= 2
    shares = HealthProbe(net).activations(lambda: net.run(rows[:8]))
    assert shares == expected
    net.run(rows).sum().backward()
    assert len(compiled) == count


def test_measuring_changes_nothing_that_is_trained(digits: ModuleType, accelerator: Any) -> None:
    def train(measured: bool) -> dict[str, Tensor]:
        trainer = digits.make_trainer(digits.DigitsConfig(critic=True), accelerator)
        net, probe = trainer.trainable, HealthProbe(trainer.trainable)
        for step in range(4):
            probe.remember_weights()
            trainer.train_step(step)
            if not measured:
                continue
            draws = StepDraws(0, step, trainer.device, 32, 0, 8)
            batch = trainer.batches.batch(step, 0, 8)
            values = probe.gradient_norms() | probe.update_ratios()
            values |= probe.activations(lambda b=batch, d=draws: net("digits", b, d))
            assert {"health/dead/features", "health/update_ratio/critic"} < values.keys()
        return net.state_dict()

    plain = train(False)
    for name, value in train(True).items():
        assert torch.equal(value, plain[name]), name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"health/update_ratio/low": 0.25}, "low: one step changes its weights by 25%"),
        ({"health/update_ratio/low": 3e-8}, "low: one step changes its weights by 3e-08"),
        ({"health/dead/low": 0.6}, "low: 60% of its units are 0 on every image"),
        ({"health/saturated/low": 0.6}, "low: 60% of its sigmoid or tanh outputs"),
        ({"health/grad_norm/low": 0.0}, "low: no gradient reaches it"),
        (
            {"health/grad_norm/low": 1e-7, "health/grad_norm/high": 0.5},
            "low: its gradient is 5e+06 times smaller than that of high",
        ),
    ],
)
def test_each_warning_is_said_once(values: dict[str, float], words: str) -> None:
    probe = HealthProbe(restless())
    (line,) = probe.warnings(values, lr_factor=1.0)
    assert line.startswith(words)
    assert "\n" not in line
    assert probe.warnings(values, lr_factor=1.0) == []
    elsewhere = {name.replace("low", "top"): value for name, value in values.items()}
    if len(values) == 1:
        assert len(probe.warnings(elsewhere, lr_factor=1.0)) == 1


def test_healthy_values_and_those_without_meaning_are_no_warnings() -> None:
    healthy = {
        "loss": 1e9,
        "health/grad_norm/low": 0.01,
        "health/grad_norm/high": 3.0,
        "health/update_ratio/low": 1e-3,
        "health/dead/low": 0.2,
        "health/saturated/high": 0.1,
    }
    odd = {
        "health/grad_norm/low": math.inf,  # a gradient scaler skips this step
        "health/update_ratio/low": 0.0,
        "health/update_ratio/high": math.nan,
    }
    probe = HealthProbe(restless())
    assert probe.warnings(healthy, lr_factor=1.0) == []
    assert probe.warnings(odd, lr_factor=1.0) == []


def test_small_updates_are_expected_where_the_schedule_makes_them_small() -> None:
    probe = HealthProbe(restless())
    values = {"health/update_ratio/low": 3e-8}
    assert probe.warnings(values, lr_factor=0.01) == []
    assert len(probe.warnings(values, lr_factor=0.1)) == 1


@pytest.mark.parametrize(
    ("every", "total_steps", "log_every", "interval"),
    [
        (None, 2_000, 50, 50),
        (None, 100_000, 50, 1_000),
        (None, 8_000, 50, 100),  # 80 rounded up to lines of the log
        (None, 20, 1, 50),  # never in so short a run
        (3, 20, 1, 3),
        (30, 2_000, 50, 50),
        (0, 2_000, 50, None),
    ],
)
def test_interval(every: int | None, total_steps: int, log_every: int, interval: int) -> None:
    assert HealthConfig(every=every).interval(total_steps, log_every) == interval


def test_negative_intervals_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        HealthConfig(every=-1)
