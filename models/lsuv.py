"""Layer-sequential unit-variance initialization, on a batch of real images.

Mishkin and Matas 2016, "All you need is a good init".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.dropout import dropout_layers
from models.errors import ModelError


@torch.no_grad()
def lsuv_(module: nn.Module, inputs: Tensor) -> None:
    """Scale the weights of each layer so that its output on `inputs` has variance 1.

    One forward pass, in the order in which the layers run, each on what the scaled layers below
    give; norms use the statistics of the batch, dropout is off. Layers whose weights are all zero
    stay so. Biases must be zero: then scaling the weights scales the output. Nothing but weights
    is changed.

    Args:
        module: an encoder, or any other network, with weights that are drawn already.
        inputs: what it takes: images [B, C, H, W] in [0, 1] for an encoder.
    Raises:
        ModelError: a layer's output does not vary, as with images that are all the same.
    """
    names: dict[nn.Module, str] = {
        layer: name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    }

    def scale(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if not weight.any():
            return output
        std = output.std()
        if not std > 0:
            raise ModelError(
                f"lsuv: the output of layer {names[layer]!r} does not vary over the "
                f"{len(inputs)} images given: give images that differ, or another initializer"
            )
        weight.div_(std)
        return output / std

    hooks = [layer.register_forward_hook(scale) for layer in names]
    try:
        with batch_statistics(module):
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Training mode without dropout inside the block; modes and buffers are as before after it."""
    modes = {part: part.training for part in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        module.train()
        for part in dropout_layers(module):
            part.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
