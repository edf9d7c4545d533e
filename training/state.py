"""What a run needs to go on besides its step, and how a model takes it in again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.errors import InputError
from training.sharding import spread_like


@dataclass(frozen=True)
class TrainerState:
    """All that a run needs to go on, besides its step.

    Attributes:
        model: parameters and buffers by their names in the Trainable.
        optimizer: "phase/parameter name/key" -> tensor.
        average: averaged parameters and buffers by name; empty without an average.
        scalers: phase -> values of its gradient scaler; empty without fp16.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    scalers: dict[str, dict[str, float]] = field(default_factory=dict)


def load_model(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set a module's parameters and buffers to whole tensors of one made alike.

    Raises:
        InputError: names or shapes differ; one line.
    """
    own = module.state_dict()
    if own.keys() != tensors.keys():
        names = ", ".join(sorted(own.keys() ^ tensors.keys())[:3])
        raise InputError(
            f"the checkpoint is of another model: only one of the two has {names}; "
            "resume with the version that wrote it, or start anew with --overwrite"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise InputError(
                f"the checkpoint is of another model: {name} is {tuple(value.shape)} there, "
                f"{tuple(own[name].shape)} here; start anew with --overwrite"
            )
    module.load_state_dict({name: spread_like(v, own[name]) for name, v in tensors.items()})
