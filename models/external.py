"""Encoders out of code that is not this project's: a function that gives a module, by its path.

Such code is run only for a config that its user wrote, or for an artifact that its user allows.

Shapes: B batch, C channels, H height, W width, D features.
"""

import importlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, JsonValue, field_validator, model_validator
from torch import Tensor, nn

from models.dropout import PlainDropout
from models.errors import ModelError
from models.stages import CommonEncoderConfig, Stage, StageLayers


class ExternalEncoderConfig(CommonEncoderConfig):
    """A module whose children are applied in turn, such as a backbone of timm's.

    `norm` and `activation` are those of the decoder that mirrors it.
    """

    kind: Literal["external"] = "external"
    module: str = Field(
        description="package.module:function, which gives an nn.Module; it is imported and called"
    )
    arguments: dict[str, JsonValue] = Field({}, description="of the function, by name")
    stages: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the module's children, in order, each the last of a stage; those "
        "above the last one are left out. null: all children that have parameters",
    )

    @field_validator("module")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        package, _, function = value.partition(":")
        if not all(part.isidentifier() for part in (*package.split("."), function)):
            raise ValueError("should be package.module:function, such as timm:create_model")
        return value

    @model_validator(mode="after")
    def _leaves_layers_alone(self) -> "ExternalEncoderConfig":
        if self.spectral_norm:
            raise ValueError(
                "found spectral_norm with kind external, whose layers may use their weights in "
                "other ways: set it to false"
            )
        if self.dropout != PlainDropout(rate=0.0):
            raise ValueError("found dropout with kind external: give it in its arguments")
        return self


def import_module(config: ExternalEncoderConfig) -> nn.Module:
    """Import the function and call it.

    Raises:
        ModelError: there is no such function, it fails, or it gives something else.
    """
    found = f"encoder.module: found {config.module!r}"
    path, _, name = config.module.partition(":")
    try:
        function = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{found}, which cannot be imported ({_in_a_line(error)})") from error
    try:
        module = function(**config.arguments)
    except Exception as error:  # its code is not ours: whatever it raises is about the arguments
        raise ModelError(
            f"encoder.arguments: {config.module} failed with {config.arguments}: "
            f"{type(error).__name__}: {_in_a_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{found}, which gives {type(module).__name__}; it must give nn.Module")
    return module


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


@torch.no_grad()
def external_stages(
    config: ExternalEncoderConfig, channels: int, height: int, width: int
) -> Iterator[Stage]:
    """Yield the stages for images of this shape, as one pass of random images shows them.

    Raises:
        ModelError: as `import_module`; or stages that are not its children in order, that give
            neither [B, C, H, W] nor [B, D], or not what the module itself has there.
    """
    module = import_module(config).eval()
    parts = _parts(config, module)
    images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    wanted = _outputs(config, module, images)
    features = images
    for name, layers in parts.items():
        stage = StageLayers(*layers)
        features = _applied(config, name, stage, features)
        if name in wanted and not _alike(features, wanted[name]):
            raise ModelError(
                f"encoder.stages: the children of {config.module} up to {name!r}, applied in turn, "
                "do not give what it has there itself; give a function that returns nn.Sequential"
            )
        yield name, stage.train(), tuple(features.shape[1:])


def _parts(config: ExternalEncoderConfig, module: nn.Module) -> dict[str, list[nn.Module]]:
    """The children of each stage, by its name."""
    children = dict(module.named_children())
    with_parameters = [name for name, child in children.items() if list(child.parameters())]
    ends = list(config.stages or with_parameters)
    order = [name for name in children if name in ends]
    if not ends or ends != order:
        raise ModelError(
            f"encoder.stages: found {', '.join(ends) or 'none'}; {config.module} has the children "
            f"{', '.join(children) or '(none)'}: name some of them, in this order"
        )
    parts: dict[str, list[nn.Module]] = {}
    gathered: list[nn.Module] = []
    for name, child in children.items():
        gathered.append(child)
        if name in ends:
            parts[name], gathered = gathered, []
    return parts


def _outputs(config: ExternalEncoderConfig, module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What the module's own pass over images makes its children give, by name."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output.clone()

        return hook

    hooks = [child.register_forward_hook(keep(name)) for name, child in module.named_children()]
    _applied(config, "whole", module, images, is_stage=False)
    for hook in hooks:
        hook.remove()
    return outputs


def _applied(
    config: ExternalEncoderConfig,
    name: str,
    module: nn.Module,
    features: Tensor,
    *,
    is_stage: bool = True,
) -> Tensor:
    """What a part gives, checked to be features."""
    try:
        output = module(features)
    except Exception as error:  # its code is not ours: the images do not suit it
        raise ModelError(
            f"encoder.module: {config.module} ({name}) fails on features of "
            f"{tuple(features.shape[1:])}: {type(error).__name__}: {_in_a_line(error)}"
        ) from error
    if is_stage and not (isinstance(output, Tensor) and output.dim() in (2, 4)):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"encoder.stages: {name} of {config.module} gives {shape}; a stage gives features "
            "[B, C, H, W] or [B, D]"
        )
    return output


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
