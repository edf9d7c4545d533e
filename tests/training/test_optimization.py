"""Schedules, which parameters decay, learning rates by part, seeds and draws."""

import pytest
import torch
from torch import nn

from training.optimizers import (
    AdamConfig,
    AdamWConfig,
    MomentumConfig,
    OptimizerConfig,
    SGDConfig,
    build_optimizer,
    norm_parameters,
    set_learning_rate,
)
from training.randomness import StepDraws, derive_seed
from training.schedules import ConstantSchedule, CosineSchedule, LinearSchedule, multiplier


def test_cosine_rises_falls_and_always_moves() -> None:
    schedule = CosineSchedule(warmup=0.1, final=0.2)
    values = [multiplier(schedule, step, 100) for step in range(100)]
    assert values[0] == pytest.approx(1 / 11)
    assert values[:10] == sorted(values[:10])
    assert values[10] == 1.0
    assert values[55] == pytest.approx(0.6)  # halfway down
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0.2 < values[99] < 0.201


@pytest.mark.parametrize("schedule", [ConstantSchedule(), CosineSchedule(), LinearSchedule()])
@pytest.mark.parametrize("total", [1, 2, 20, 1000])
def test_no_step_of_any_run_is_at_rate_zero(schedule: CosineSchedule, total: int) -> None:
    values = [multiplier(schedule, step, total) for step in range(total)]
    assert min(values) > 0
    assert max(values) == 1.0


def test_linear_and_constant() -> None:
    assert multiplier(LinearSchedule(warmup=0, final=0), 25, 100) == 0.75
    assert multiplier(ConstantSchedule(warmup=0.1), 99, 100) == 1.0
    with pytest.raises(ValueError, match="outside the run"):
        multiplier(ConstantSchedule(), 100, 100)


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "stem": nn.Conv2d(1, 4, 3),
                "norm": nn.BatchNorm2d(4),
                "layer": nn.LayerNorm([4, 2, 2]),
            }
        )
        self.head = nn.Linear(4, 2)


def test_only_weights_decay() -> None:
    module = Parts()
    optimizer = build_optimizer(
        AdamWConfig(weight_decay=0.1), module.named_parameters(), norms=norm_parameters(module)
    )
    decayed = {p for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in module.named_parameters() if p in decayed}
    assert names == {"encoder.stem.weight", "head.weight"}


def test_learning_rates_by_part() -> None:
    module = Parts()
    optimizer = build_optimizer(
        SGDConfig(lr=1.0),
        module.named_parameters(),
        lr_factors={"encoder": 0.1, "encoder.stem": 0.01},
    )
    set_learning_rate(optimizer, 0.5)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[module.head.weight] == 0.5
    assert rates[module.encoder["norm"].weight] == pytest.approx(0.05)
    assert rates[module.encoder["stem"].weight] == pytest.approx(0.005)
    with pytest.raises(ValueError, match="no parameter begins so"):
        build_optimizer(SGDConfig(), module.named_parameters(), lr_factors={"encode": 0.1})


@pytest.mark.parametrize(
    "config", [AdamConfig(), AdamWConfig(), SGDConfig(), MomentumConfig(nesterov=True)]
)
def test_every_kind_descends(config: OptimizerConfig) -> None:
    weight = nn.Parameter(torch.full((3, 3), 2.0))
    optimizer = build_optimizer(config, [("weight", weight)])
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 2.0 - 15 * min(config.lr, 0.05)


def test_draws_do_not_depend_on_how_the_batch_is_cut() -> None:
    device = torch.device("cpu")

    def draw(start: int, stop: int) -> list[torch.Tensor]:
        draws = StepDraws(7, 3, device, 12, start, stop)
        return [draws.rand("mask", 4), draws.randn("noise", 2, 2), draws.randint("label", 5)]

    whole = draw(0, 12)
    parts = [torch.cat(parts) for parts in zip(draw(0, 4), draw(4, 6), draw(6, 12), strict=True)]
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_seeds_differ_by_run_purpose_and_step() -> None:
    keys = [(s, p, t) for s in range(20) for p in ("order", "noise") for t in range(20)]
    seeds = {derive_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
