"""Gradient clipping against its definitions, unit by unit."""

import pytest
import torch
from torch import Tensor, nn

from training.clipping import AdaptiveClip, NoClip, NormClip, ValueClip, clip_gradients
from training.layer_units import transposed_groups


def with_gradients(module: nn.Module, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def whole_norm(gradients: dict[str, Tensor]) -> float:
    return torch.cat([g.flatten() for g in gradients.values()]).norm().item()


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_value_and_norm(scale: float) -> None:
    module = nn.Linear(6, 4)
    for config in (NoClip(), ValueClip(max_value=0.5), NormClip(max_norm=0.5)):
        before = with_gradients(module, scale)
        norm = clip_gradients(config, module.named_parameters())
        assert norm.item() == pytest.approx(whole_norm(before))
        after = {n: p.grad for n, p in module.named_parameters()}
        for name, gradient in before.items():
            match config:
                case ValueClip():
                    expected = gradient.clamp(-0.5, 0.5)
                case NormClip():
                    expected = gradient * min(1.0, 0.5 / whole_norm(before))
                case _:
                    expected = gradient
            torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-7)


def units(name: str, module: nn.Module, value: Tensor) -> list[Tensor]:
    """The values that come together in each output, found by looking at what reaches it."""
    if not name.endswith("weight") or not isinstance(module, nn.ConvTranspose2d):
        return list(value) if value.ndim > 1 else [value]
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    return [
        value[group * inputs : (group + 1) * inputs, unit]
        for group in range(module.groups)
        for unit in range(outputs)
    ]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ],
    ids=["dense", "grouped", "transposed", "transposed grouped"],
)
def test_adaptive_bounds_every_unit_by_its_weights(layer: nn.Module) -> None:
    with torch.no_grad():
        layer.weight.flatten()[:5] = 0  # type: ignore[union-attr]
    before = with_gradients(layer, 1.0)
    config = AdaptiveClip(clipping=0.1, eps=0.05)
    clip_gradients(config, layer.named_parameters(), transposed_groups(layer))
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        for weight, old, new in zip(
            units(name, layer, parameter.detach()),
            units(name, layer, before[name]),
            units(name, layer, parameter.grad),
            strict=True,
        ):
            longest = 0.1 * max(weight.norm().item(), 0.05)
            torch.testing.assert_close(new, old * min(1.0, longest / old.norm().item()))


def test_adaptive_leaves_the_output_layer_alone() -> None:
    module = nn.ModuleDict({"body": nn.Linear(6, 4), "head": nn.Linear(4, 2)})
    before = with_gradients(module, 10.0)
    clip_gradients(AdaptiveClip(), module.named_parameters())
    assert torch.equal(module["head"].weight.grad, before["head.weight"])
    assert not torch.equal(module["body"].weight.grad, before["body.weight"])
