"""Pretraining that begins with the weights of an encoder that was trained before."""

from pathlib import Path
from typing import Any

from models.artifact import ArtifactHeader, artifact_hash, load_encoder, read_artifact
from models.encoders import Encoder, EncoderConfig, InputContract
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.spectral import add_spectral_norm
from training.errors import InputError

# Of the encoder's values they alone leave its weights what they are.
_FREE = ("initializer", "spectral_norm")


def started_encoder(
    path: str, config: EncoderConfig, contract: InputContract, *, seed: int
) -> Encoder:
    """Return the encoder of an artifact, to be trained further.

    It normalizes images as it did before, whatever the mean and deviation of the new ones.

    Args:
        config: what the run's encoder is to be.
        contract: of the images to train on.
        seed: of the power iteration of spectral norm, where the config asks for it.
    Raises:
        InputError: it is no artifact, another encoder, or for images of another shape; names
            `start` and the key that differs; one line.
    """
    try:
        header = read_artifact(path)
        _check(path, header, config, contract)
        # The config names the same code: it is the user's own wish to run it.
        encoder = load_encoder(
            path, allow_external=isinstance(config, ExternalEncoderConfig)
        ).train()
    except ModelError as error:
        raise InputError(f"start: {error}") from None
    encoder.config = config
    if config.spectral_norm:
        add_spectral_norm(encoder, seed=seed)
    return encoder


def origin_of(path: str) -> dict[str, Any]:
    """Return what an artifact that training began with was, fit for JSON."""
    header = read_artifact(path)
    objective = header.config.get("objective")
    return {
        "encoder": str(Path(path)),
        "sha256": artifact_hash(path),
        "objective": objective.get("kind") if isinstance(objective, dict) else None,
        "trained_on": header.trained_on.model_dump(mode="json"),
    }


def _check(
    path: str, header: ArtifactHeader, config: EncoderConfig, contract: InputContract
) -> None:
    ours, theirs = (spec.model_dump(mode="json") for spec in (config, header.spec))
    for key in dict.fromkeys(("kind", *ours, *theirs)):
        if key not in _FREE and ours.get(key) != theirs.get(key):
            raise InputError(
                f"encoder.{key}: found {ours.get(key)}, but the encoder of start, {path}, has "
                f"{theirs.get(key)}; give the same, or start: null"
            )
    shapes = [f"{one.channels}x{one.height}x{one.width}" for one in (contract, header.input)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"start: {path} takes images of {shapes[1]} (channels x height x width), those of "
            f"data.shards are {shapes[0]}; convert them (data.channels, data.size), or start: null"
        )
