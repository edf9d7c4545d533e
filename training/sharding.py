"""Weights spread over the ranks by torch's FSDP2, and whole again for files.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel". It is called
directly: Accelerate's own way to it wants model and optimizer prepared in one call, while here the
loop builds an optimizer for each phase.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def shard(module: nn.Module, parts: Iterable[nn.Module], device: torch.device) -> None:
    """Leave each rank its share of every parameter of `module`, in place.

    Args:
        module: on `device`, equal on all ranks; its parameters become DTensors.
        parts: modules inside it, each called as a module: what is gathered together for its
            forward and backward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_spread(value: Tensor) -> bool:
    """Tell whether each rank holds a share of a tensor: whether it is a DTensor."""
    # Asked of its class this would cost every process 0.7 s: the import of torch's DTensor.
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """Return a tensor with all ranks' shares in it. Every rank must call it."""
    return value.full_tensor() if is_spread(value) else value  # type: ignore[attr-defined]


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name with all ranks' shares in them. Every rank must call it."""
    return {name: whole(value) for name, value in tensors.items()}


def spread_like(value: Tensor, target: Tensor) -> Tensor:
    """Return this rank's share of a whole `value`, as `target` is spread; else `value` itself."""
    if not is_spread(target):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
