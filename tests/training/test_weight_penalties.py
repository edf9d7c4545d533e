"""Penalties on weights against autograd and their proximal formulas."""

import pytest
import torch
from torch import Tensor, nn

from training.optimizers import AdamWConfig, SGDConfig, build_optimizer, norm_parameters
from training.weight_penalties import RegularizationConfig, WeightPenalty


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(),
        nn.Linear(2 * 36, 3),
    )  # fmt: skip


def loss(module: nn.Module) -> Tensor:
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return module(images).square().mean()


WEIGHTS = ("0.weight", "2.weight", "4.weight")


def test_coupled_penalties_are_gradients_of_what_they_say() -> None:
    module = network()
    penalty = WeightPenalty(
        RegularizationConfig(l1=0.03, l2=0.2), module.named_parameters(), module
    )
    loss(module).backward()
    penalty.add_to_gradients()
    found = {n: p.grad for n, p in module.named_parameters()}

    explicit = network()
    weights = [p for n, p in explicit.named_parameters() if n in WEIGHTS]
    total = loss(explicit)
    for weight in weights:
        total = total + 0.03 * weight.abs().sum() + 0.1 * weight.square().sum()
    total.backward()
    for name, parameter in explicit.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_decoupled_l2_is_the_decay_of_adamw() -> None:
    moved = []
    for decay, l2 in ((0.1, 0.0), (0.0, 0.1)):
        module = network()
        optimizer = build_optimizer(
            AdamWConfig(lr=0.01, weight_decay=decay),
            module.named_parameters(),
            norms=norm_parameters(module),
        )
        config = RegularizationConfig(l2=l2, decoupled=True)
        penalty = WeightPenalty(config, module.named_parameters(), module)
        loss(module).backward()
        penalty.add_to_gradients()
        optimizer.step()
        penalty.after_step(optimizer)
        moved.append({n: p.detach().clone() for n, p in module.named_parameters()})
    for name in moved[0]:
        # AdamW shrinks before its step, here it is after: a difference of lr^2 * decay.
        torch.testing.assert_close(moved[0][name], moved[1][name], rtol=0, atol=2e-5)


def test_decoupled_l1_makes_exact_zeros() -> None:
    module = network()
    optimizer = build_optimizer(
        SGDConfig(lr=0.1), module.named_parameters(), norms=norm_parameters(module)
    )
    config = RegularizationConfig(l1=0.05, decoupled=True)
    penalty = WeightPenalty(config, module.named_parameters(), module)
    for _ in range(60):
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
        before = {n: p.detach().clone() for n, p in module.named_parameters()}
        penalty.after_step(optimizer)
    for name, parameter in module.named_parameters():
        old = before[name]
        shrunk = torch.sign(old) * (old.abs() - 0.1 * 0.05).clamp_min(0)
        torch.testing.assert_close(parameter, shrunk if name in WEIGHTS else old)
    dense = module[4].weight
    assert 0.1 < (dense == 0).float().mean() <= 1


@pytest.mark.parametrize("max_norm", [0.3, 1e3])
def test_max_norm_bounds_the_weights_into_each_unit(max_norm: float) -> None:
    module = network()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    penalty = WeightPenalty(
        RegularizationConfig(max_norm=max_norm), module.named_parameters(), module
    )
    penalty.after_step(torch.optim.SGD(module.parameters()))
    for name, parameter in module.named_parameters():
        units, old_units = parameter.detach(), before[name]
        if name == "2.weight":  # [in, out, 3, 3] of the transposed convolution
            units, old_units = units.transpose(0, 1), old_units.transpose(0, 1)
        for unit, old in zip(units, old_units, strict=True):
            factor = min(1.0, max_norm / old.norm().item()) if name in WEIGHTS else 1.0
            torch.testing.assert_close(unit, old * factor)
