"""What an optimizer remembers, as tensors by name, for checkpoints."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from training.errors import InputError
from training.lbfgs import LBFGS
from training.sharding import spread_like

Named = Sequence[tuple[str, nn.Parameter]]

# Numbers that torch keeps on the CPU unless the optimizer is fused.
_COUNTERS = frozenset({"step", "mu_product"})


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """Return an optimizer's whole memory, not copied.

    Args:
        optimizer: of any kind in `OptimizerConfig`.
        named: (name, parameter) pairs of all its parameters.
    Returns:
        "parameter name/key" -> tensor; L-BFGS, which remembers no single parameter: "lbfgs/key".
    """
    if isinstance(optimizer, LBFGS):
        return optimizer.tensors()
    return {
        f"{name}/{key}": value
        for name, parameter in named
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Named, tensors: Mapping[str, Tensor]
) -> None:
    """Replace an optimizer's memory by what `optimizer_tensors` returned of one made alike.

    Raises:
        InputError: a tensor's name is of no parameter in `named`; one line.
    """
    if isinstance(optimizer, LBFGS):
        optimizer.load_tensors(tensors)
        return
    parameters = dict(named)
    is_fused = {
        parameter: bool(group.get("fused"))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    optimizer.state.clear()
    for full_name, value in tensors.items():
        name, _, key = full_name.partition("/")
        if name not in parameters:
            raise InputError(
                f"the checkpoint's optimizer remembers {name}, which is not trained here; "
                "resume with the config that wrote it, or start anew with --overwrite"
            )
        parameter = parameters[name]
        if key in _COUNTERS:
            device = parameter.device if is_fused[parameter] else torch.device("cpu")
            value = value.to(device, copy=True)
        else:
            own = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            value = own.copy_(spread_like(value, parameter))
        optimizer.state[parameter][key] = value
