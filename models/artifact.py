"""`encoder.safetensors`: an encoder with all that is needed to use it, in one strict, inert file.

A file as `models/tensor_file.py` has them; its header is `ArtifactHeader`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue

from models.encoders import Encoder, EncoderConfig, InputContract, outline
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.spectral import plain_state_dict
from models.tensor_file import (
    FileKind,
    TensorFileHeader,
    hash_weights,
    program_version,
    read_header,
    read_tensor_file,
    stored,
    write_tensor_file,
)

FORMAT_VERSION = 1
_ADVICE = "give an encoder.safetensors that `python -m pretrain` wrote"


class StageRecord(BaseModel):
    """One stage: its name and the shape of its output without the batch axis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]


class TrainedOn(BaseModel):
    """The images that an encoder was trained on. Further facts may be added."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fingerprint: str
    """SHA-256 of the decoded images' source, as the resident store gives it."""
    images: int
    dataset: str | None = None


class ArtifactHeader(TensorFileHeader):
    """What an encoder artifact says about itself."""

    spec: EncoderConfig
    input: InputContract
    stages: list[StageRecord]
    """Lowest first."""
    trained_on: TrainedOn
    config: dict[str, JsonValue]
    """The whole resolved pretraining config."""
    seed: int | None
    metrics: dict[str, JsonValue]
    """Facts about the training, such as steps and the last loss."""


_KIND = FileKind(
    key="underlayer",
    name="an encoder artifact",
    header=ArtifactHeader,
    version=FORMAT_VERSION,
    advice=_ADVICE,
    expected=lambda header: outline(header.spec, header.input).state_dict(),
)


def save_encoder(
    path: Path | str,
    encoder: Encoder,
    *,
    trained_on: TrainedOn | Mapping[str, Any],
    config: Mapping[str, Any],
    seed: int | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write an encoder artifact; an existing file is replaced in one step.

    Spectral norm is for training: the file has the divided weights, and a spec without it.

    Args:
        trained_on: `fingerprint`, `images` and, where known, `dataset`; values must be JSON.
        config: the resolved pretraining config, as JSON values.
        seed: of the pretraining run; by default the `seed` of `config`.
        metrics: JSON values.
    """
    tensors = stored(plain_state_dict(encoder))
    header = ArtifactHeader(
        format_version=FORMAT_VERSION,
        underlayer=program_version(),
        spec=encoder.config.model_copy(update={"spectral_norm": False}),
        input=encoder.input,
        stages=[StageRecord(name=n, shape=s) for n, s in encoder.output_shapes.items()],
        trained_on=TrainedOn.model_validate(
            trained_on.model_dump() if isinstance(trained_on, TrainedOn) else dict(trained_on)
        ),
        config=dict(config),
        seed=config.get("seed") if seed is None else seed,
        metrics=dict(metrics or {}),
        weights_sha256=hash_weights(tensors),
    )
    write_tensor_file(Path(path), _KIND, tensors, header)


def read_artifact(path: Path | str) -> ArtifactHeader:
    """The header of an encoder artifact, without its weights.

    Raises:
        ModelError: not a safetensors file, not an encoder artifact, or another format version.
    """
    return read_header(Path(path), _KIND)


def check_external(path: Path | str, header: ArtifactHeader, *, allow_external: bool) -> None:
    """Refuse an artifact whose encoder is made by code outside of this project, unless allowed.

    Raises:
        ModelError: naming the file and the code.
    """
    if isinstance(header.spec, ExternalEncoderConfig) and not allow_external:
        raise ModelError(
            f"{path} asks for code to be imported and run, {header.spec.module}: allow it with "
            "allow_external true if you trust the file and that code"
        )


def check_stages(path: Path, header: ArtifactHeader) -> None:
    """Refuse a header whose stages are not those of its spec.

    Raises:
        ModelError: naming the file.
    """
    own = outline(header.spec, header.input).output_shapes
    if [(stage.name, stage.shape) for stage in header.stages] != list(own.items()):
        raise ModelError(f"{path} names stages that its own spec does not have: {_ADVICE}")


def load_encoder(path: Path | str, *, allow_external: bool = False) -> Encoder:
    """The encoder of an artifact, on the CPU, in eval mode and not frozen.

    Args:
        allow_external: import and run the code that an encoder of kind `external` names.
    Raises:
        ModelError: one line naming the file and what is wrong with it: not a safetensors file, not
            an encoder artifact, another format version, a missing, unknown or mis-shaped tensor,
            damaged weights, or external code that is not allowed.
    """
    path = Path(path)

    def check(header: ArtifactHeader) -> None:
        check_external(path, header, allow_external=allow_external)
        check_stages(path, header)

    header, tensors = read_tensor_file(path, _KIND, check=check)
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(header.spec, header.input)
    encoder.load_state_dict(tensors, strict=True)
    return encoder.eval()


def artifact_hash(path: Path | str) -> str:
    """SHA-256 of the whole file, in hex: the identity of an encoder in caches and results."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
