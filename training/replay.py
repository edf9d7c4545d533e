"""A forward pass taken only to look at it: it leaves no trace in the module or the generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run forwards of a module eagerly, then put back its buffers and torch's random states.

    The module keeps its mode: in train mode batch norm uses the batch's statistics, and its
    running averages are what they were before. A module compiled in place runs as if it were
    not, so that hooks see it and no other batch size compiles it anew.
    """
    buffers = [
        (owner, name, buffer, buffer.clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    device = next(module.parameters()).device
    accelerator = None if device.type == "cpu" else torch.get_device_module(device)
    accelerator_state = accelerator.get_rng_state() if accelerator else None
    cpu_state = torch.get_rng_state()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_rng_state(cpu_state)
        if accelerator:
            accelerator.set_rng_state(accelerator_state)
        for owner, name, buffer, value in buffers:
            buffer.copy_(value)
            setattr(owner, name, buffer)
