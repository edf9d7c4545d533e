"""Strict, inert files of tensors that say what they are: safetensors with one JSON header.

The metadata of the safetensors file has one entry, whose name is that of the kind of file and whose
value is a JSON object: the fields of the kind's header. Nothing in it is ever unpickled or run. The
same tensors and header always give the same bytes.
"""

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from models.errors import ModelError

_STORED = {True: torch.float32, False: torch.int64}
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


class TensorFileHeader(BaseModel):
    """What every kind of file says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    underlayer: str
    """Version of the program that wrote the file."""
    weights_sha256: str
    """Of every tensor's name, type, shape and bytes; safetensors itself has no checksum."""


Header = TypeVar("Header", bound=TensorFileHeader)


@dataclass(frozen=True)
class FileKind(Generic[Header]):
    """A kind of file.

    Fields:
        key: of its entry in the metadata.
        name: in messages, such as "an encoder artifact".
        header: the class of its header; version: the format that is written and read.
        advice: ends each message: what to give instead.
        expected: the tensors that a header asks for, on any device: names, shapes and dtypes.
    """

    key: str
    name: str
    header: type[Header]
    version: int
    advice: str
    expected: Callable[[Header], Mapping[str, Tensor]]


def program_version() -> str:
    """Return the version of this program."""
    try:
        return importlib.metadata.version("underlayer")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a source tree


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as they are stored: on the CPU, contiguous, float32 or int64."""
    return {
        name: tensor.detach().to("cpu", _STORED[tensor.is_floating_point()]).contiguous()
        for name, tensor in tensors.items()
    }


def hash_weights(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors that are as `stored` gives them, in hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensor_file(
    path: Path, kind: FileKind[Header], tensors: Mapping[str, Tensor], header: Header
) -> None:
    """Write a file; an existing one is replaced in one step."""
    # A single metadata entry: with several, their order in the file is not fixed.
    content = safetensors_bytes(dict(tensors), metadata={kind.key: header.model_dump_json()})
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


def read_header(path: Path, kind: FileKind[Header]) -> Header:
    """Return the header of a file, without its tensors.

    Raises:
        ModelError: not a safetensors file, not of this kind, or of another format version.
    """
    return _read(path, kind, None)[0]


def is_of_kind(path: Path, kind: FileKind[Any]) -> bool:
    """Whether a file says that it is of a kind; what else is in it is not looked at."""
    try:
        with safe_open(path, framework="pt") as file:
            return kind.key in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_tensor_file(
    path: Path, kind: FileKind[Header], *, check: Callable[[Header], None]
) -> tuple[Header, dict[str, Tensor]]:
    """Return header and tensors of a file.

    Args:
        check: raises where the header asks for what is not allowed, before tensors are read.
    Raises:
        ModelError: one line naming the file and what is wrong with it: not a safetensors file, not
            of this kind, another format version, a missing, unknown or mis-shaped tensor, or
            damaged weights.
    """
    header, tensors = _read(path, kind, check)
    if hash_weights(tensors) != header.weights_sha256:
        raise ModelError(f"{path} has damaged weights (their checksum differs): {kind.advice}")
    return header, tensors


def _read(
    path: Path, kind: FileKind[Header], check: Callable[[Header], None] | None
) -> tuple[Header, dict[str, Tensor]]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}: {kind.advice}")
    try:
        with safe_open(path, framework="pt") as file:
            header = _parse_header(path, kind, file.metadata())
            tensors: dict[str, Tensor] = {}
            if check is not None:
                check(header)
                slices = {n: file.get_slice(n) for n in file.keys()}  # noqa: SIM118
                _check_tensors(path, kind, header, slices)
                tensors = {name: file.get_tensor(name) for name in slices}
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} is not a safetensors file ({reason}): {kind.advice}") from error
    return header, tensors


class _Versioned(BaseModel):
    """The one field that every format version has."""

    format_version: int


def _parse_header(path: Path, kind: FileKind[Header], metadata: Mapping[str, str] | None) -> Header:
    text = (metadata or {}).get(kind.key)
    if text is None:
        raise ModelError(f"{path} is a safetensors file but not {kind.name}: {kind.advice}")
    try:
        version = _Versioned.model_validate_json(text).format_version
        if version != kind.version:
            raise ModelError(
                f"{path} has artifact format {version}, this version of underlayer reads format "
                f"{kind.version}: use the version that wrote it, or train it again"
            )
        return kind.header.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(
            f"{path} has a damaged artifact header ({_one_line(error)}): {kind.advice}"
        ) from error


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "header"
    return " ".join(f"{where}: {first['msg']}".split())


def _check_tensors(
    path: Path, kind: FileKind[Header], header: Header, slices: Mapping[str, Any]
) -> None:
    # Nothing is allocated, whatever sizes the header claims.
    expected = kind.expected(header)
    for problem, names in (
        ("lacks", sorted(expected.keys() - slices.keys())),
        ("has an unknown", sorted(slices.keys() - expected.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{path} {problem} tensor {names[0]!r}{more}: {kind.advice}")
    for name, tensor in expected.items():
        shape, dtype = tuple(slices[name].get_shape()), slices[name].get_dtype()
        if shape != tuple(tensor.shape) or dtype != _DTYPES[tensor.dtype]:
            raise ModelError(
                f"{path} has tensor {name!r} of {dtype} {shape}, its spec asks for "
                f"{_DTYPES[tensor.dtype]} {tuple(tensor.shape)}: {kind.advice}"
            )
