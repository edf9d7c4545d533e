"""The networks that are diagnosed: combinations of initializer and activation, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import ValidationError
from torch import Tensor

from models.diagnosis import LayerHealth, diagnose, measured_layers
from models.encoders import DenseEncoderConfig, EncoderConfig, InputContract, build_encoder
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.initialization import InitializerConfig, InitializerName, default_initializer
from models.layers import ActivationName

STACK = DenseEncoderConfig(widths=(256,) * 10, norm="none")
"""The deep dense stack: without a norm every layer is at the mercy of its weights."""


def parse_initializers(names: Sequence[str]) -> list[InitializerConfig]:
    """The initializers of names such as `he_normal` or `normal:std=1`, each once.

    Raises:
        ModelError: an unknown name, value or none at all; the message lists the valid names.
    """
    parsed = [_parse_initializer(name) for name in _distinct("initializers", names)]
    return list(dict.fromkeys(parsed))


def _parse_initializer(text: str) -> InitializerConfig:
    kind, *settings = text.split(":")
    _check_name("initializers", kind, get_args(InitializerName))
    values = dict(setting.partition("=")[::2] for setting in settings)
    config = _replaced(STACK, f"initializers: {text}", initializer={"kind": kind, **values})
    assert config.initializer is not None
    return config.initializer


def _label(initializer: InitializerConfig | InitializerName) -> str:
    if isinstance(initializer, str):
        return initializer
    values = initializer.model_dump(exclude={"kind"}, exclude_none=True)
    return ", ".join([initializer.kind, *(f"{name} {value:g}" for name, value in values.items())])


def parse_activations(names: Sequence[str]) -> list[ActivationName]:
    """The activations of these names, each once.

    Raises:
        ModelError: an unknown name or none at all; the message lists the valid names.
    """
    found = _distinct("activations", names)
    for name in found:
        _check_name("activations", name, get_args(ActivationName))
    return cast(list[ActivationName], found)


def _distinct(key: str, names: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not found:
        raise ModelError(f"{key}: found none; give names separated by commas")
    return found


def _check_name(key: str, name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        raise ModelError(f"{key}: found {name!r}; valid are {', '.join(valid)}")


def combinations(
    config: EncoderConfig,
    initializers: Sequence[InitializerConfig],
    activations: Sequence[ActivationName],
) -> list[EncoderConfig]:
    """The encoder with each initializer and each activation, all else as it was.

    Raises:
        ModelError: the rest of the config does not allow one of them.
    """
    return [
        _replaced(
            config,
            f"{_label(initializer)} with {activation}",
            initializer=initializer.model_dump(),
            activation=activation,
        )
        for initializer in initializers
        for activation in activations
    ]


def _replaced(config: EncoderConfig, what: str, **changes: Any) -> EncoderConfig:
    try:
        return type(config).model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][-1]) if first["loc"] else "encoder"
        raise ModelError(f"{what}: {key}: {first['msg'].removeprefix('Value error, ')}") from None


@dataclass(frozen=True)
class DiagnosedNetwork:
    """A network under one initializer and one activation.

    Attributes:
        config: of the encoder.
        initializer: as shown, such as "normal, std 1".
        layers: what was measured, lowest first.
    """

    config: EncoderConfig
    initializer: str
    layers: Sequence[LayerHealth]


def diagnose_encoder(
    config: EncoderConfig, contract: InputContract, images: Tensor, *, seed: int
) -> DiagnosedNetwork:
    """Draw an encoder's weights from `seed` and measure its layers on images [B, C, H, W].

    Raises:
        ModelError: as `build_encoder` and `diagnose`.
    """
    initializer = _label(config.initializer or default_initializer(config.activation))
    if config.initializer is None and isinstance(config, ExternalEncoderConfig):
        initializer = "its own"
    encoder = build_encoder(config, contract, seed=seed, images=images)
    layers = diagnose(encoder, measured_layers(encoder), images)
    return DiagnosedNetwork(config, initializer, layers)
