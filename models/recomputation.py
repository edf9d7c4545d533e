"""Gradient checkpointing that leaves a network as one forward pass leaves it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


@torch.compiler.disable
def checkpointed(module: nn.Module, inputs: Tensor) -> Tensor:
    """`module(inputs)`, whose activations the backward pass computes again instead of keeping.

    Dropout draws the same again: the state of torch's generators is kept. The second pass runs on
    copies of the buffers as they were before the first; on the buffers themselves it would move
    the running statistics of batch norm twice, and the power iteration of spectral norm too.
    A compiler does not trace this, as it would compile another way of checkpointing, which runs on
    the buffers themselves; where `module` is compiled in place, both passes run compiled.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    is_again = False

    def run(inputs: Tensor) -> Any:
        nonlocal is_again
        if is_again:
            copies = {name: buffer.clone() for name, buffer in buffers.items()}
            return functional_call(module, copies, (inputs,))
        is_again = True
        return module(inputs)

    output = checkpoint(run, inputs, use_reentrant=False)
    assert isinstance(output, Tensor)
    return output
