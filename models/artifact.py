"""`encoder.safetensors`: an encoder with all that is needed to use it, in one strict, inert file.

The file is a safetensors file. Its metadata has one entry, `underlayer`: a JSON object with the
fields of `ArtifactHeader`. Nothing in it is ever unpickled or run. The same encoder and header
always give the same bytes.
"""

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from models.encoders import Encoder, EncoderConfig, InputContract, outline
from models.errors import ModelError
from models.external import ExternalEncoderConfig
from models.spectral import plain_state_dict

FORMAT_VERSION = 1
_METADATA_KEY = "underlayer"
_STORED = {True: torch.float32, False: torch.int64}
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
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


class ArtifactHeader(BaseModel):
    """What an encoder artifact says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    underlayer: str
    """Version of the program that wrote the file."""
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
    weights_sha256: str
    """Of every tensor's name, type, shape and bytes; safetensors itself has no checksum."""


def _program_version() -> str:
    try:
        return importlib.metadata.version("underlayer")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a source tree


def _hash_weights(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    path = Path(path)
    tensors = {
        name: tensor.detach().to("cpu", _STORED[tensor.is_floating_point()]).contiguous()
        for name, tensor in plain_state_dict(encoder).items()
    }
    header = ArtifactHeader(
        format_version=FORMAT_VERSION,
        underlayer=_program_version(),
        spec=encoder.config.model_copy(update={"spectral_norm": False}),
        input=encoder.input,
        stages=[StageRecord(name=n, shape=s) for n, s in encoder.output_shapes.items()],
        trained_on=TrainedOn.model_validate(
            trained_on.model_dump() if isinstance(trained_on, TrainedOn) else dict(trained_on)
        ),
        config=dict(config),
        seed=config.get("seed") if seed is None else seed,
        metrics=dict(metrics or {}),
        weights_sha256=_hash_weights(tensors),
    )
    # A single metadata entry: with several, their order in the file is not fixed.
    content = safetensors_bytes(tensors, metadata={_METADATA_KEY: header.model_dump_json()})
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        temporary = Path(new.name)
        try:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "header"
    return " ".join(f"{where}: {first['msg']}".split())


def _parse_header(path: Path, metadata: Mapping[str, str] | None) -> ArtifactHeader:
    text = (metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise ModelError(f"{path} is a safetensors file but not an encoder artifact: {_ADVICE}")
    try:
        version = _Versioned.model_validate_json(text).format_version
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{path} has artifact format {version}, this version of underlayer reads format "
                f"{FORMAT_VERSION}: use the version that wrote it, or train the encoder again"
            )
        return ArtifactHeader.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(
            f"{path} has a damaged artifact header ({_one_line(error)}): {_ADVICE}"
        ) from error


class _Versioned(BaseModel):
    """The one field that every format version has."""

    format_version: int


def _read(
    path: Path, *, with_weights: bool, allow_external: bool = False
) -> tuple[ArtifactHeader, dict[str, Tensor]]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}: {_ADVICE}")
    try:
        with safe_open(path, framework="pt") as file:
            header = _parse_header(path, file.metadata())
            tensors: dict[str, Tensor] = {}
            if with_weights:
                check_external(path, header, allow_external=allow_external)
                _check_tensors(path, header, {n: file.get_slice(n) for n in file.keys()})  # noqa: SIM118
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} is not a safetensors file ({reason}): {_ADVICE}") from error
    return header, tensors


def _check_tensors(path: Path, header: ArtifactHeader, slices: Mapping[str, Any]) -> None:
    # Nothing is allocated, whatever sizes the header claims.
    encoder = outline(header.spec, header.input)
    if [(s.name, s.shape) for s in header.stages] != list(encoder.output_shapes.items()):
        raise ModelError(f"{path} names stages that its own spec does not have: {_ADVICE}")
    expected = encoder.state_dict()
    for problem, names in (
        ("lacks", sorted(expected.keys() - slices.keys())),
        ("has an unknown", sorted(slices.keys() - expected.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{path} {problem} tensor {names[0]!r}{more}: {_ADVICE}")
    for name, tensor in expected.items():
        shape, dtype = tuple(slices[name].get_shape()), slices[name].get_dtype()
        if shape != tuple(tensor.shape) or dtype != _DTYPES[tensor.dtype]:
            raise ModelError(
                f"{path} has tensor {name!r} of {dtype} {shape}, its spec asks for "
                f"{_DTYPES[tensor.dtype]} {tuple(tensor.shape)}: {_ADVICE}"
            )


def read_artifact(path: Path | str) -> ArtifactHeader:
    """The header of an encoder artifact, without its weights.

    Raises:
        ModelError: not a safetensors file, not an encoder artifact, or another format version.
    """
    return _read(Path(path), with_weights=False)[0]


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
    header, tensors = _read(path, with_weights=True, allow_external=allow_external)
    if _hash_weights(tensors) != header.weights_sha256:
        raise ModelError(f"{path} has damaged weights (their checksum differs): {_ADVICE}")
    with torch.random.fork_rng(devices=[]):
        encoder = Encoder(header.spec, header.input)
    encoder.load_state_dict(tensors, strict=True)
    return encoder.eval()


def artifact_hash(path: Path | str) -> str:
    """SHA-256 of the whole file, in hex: the identity of an encoder in caches and results."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
