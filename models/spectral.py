"""Spectral normalization of whole networks, and plain weights out of them.

Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks".
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized


def add_spectral_norm(module: nn.Module, *, seed: int) -> None:
    """Divide the weight of every dense and convolutional layer by its largest singular value.

    The value is estimated by power iteration, one step per forward pass in training mode; where
    that begins depends on `seed` and the weights alone. Weights must be drawn already.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in list(module.modules()):
            if isinstance(layer, nn.Linear | _ConvNd):
                spectral_norm(layer)


def plain_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state dict that `module` would have without spectral norm: with the divided weights.

    A network without spectral norm that loads it gives what `module` gives in eval mode.
    """
    state: dict[str, Tensor] = module.state_dict()
    for name, layer in module.named_modules():
        if is_parametrized(layer, "weight"):
            prefix = f"{name}.parametrizations.weight."
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            state[f"{name}.weight"] = _weight_at_rest(layer)
    return state


@torch.no_grad()
def _weight_at_rest(layer: nn.Module) -> Tensor:
    """The weight in eval mode: in training mode to look at it takes a step of power iteration."""
    parametrizations = layer.get_submodule("parametrizations")
    modes = {part: part.training for part in parametrizations.modules()}
    parametrizations.eval()
    weight = layer.weight
    for part, mode in modes.items():
        part.training = mode
    assert isinstance(weight, Tensor)
    return weight
