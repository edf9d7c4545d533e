"""Checkpoints on disk: written whole or not at all, in safetensors and JSON.

    checkpoints/step-00001200/model.safetensors, optimizer.safetensors, average.safetensors,
                              best.safetensors, state.json
    checkpoints/LATEST          the name of the newest one

A checkpoint is written under a temporary name, synced and renamed; only then does LATEST name
it, and only after that are older ones removed. Whatever moment a process dies at, LATEST names a
complete checkpoint.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from training.errors import InputError
from training.state import TrainerState

FORMAT_VERSION = 2
_TEMPORARY = ".writing-"


class CheckpointConfig(BaseModel):
    """When checkpoints are written and how many are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int | None = Field(
        default=None, ge=1, description="Steps between checkpoints; null: a tenth of the run."
    )
    keep: int = Field(default=2, ge=1, description="How many of the newest stay on disk.")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after `step` steps, which took `seconds` of training.

    Attributes:
        watch: `MetricWatch.state()`: what plateau and early stopping have seen.
        best: the weights that early stopping would restore, by name; empty without it.
        stopped_early: whether the run has ended before its last step.
    """

    step: int
    seconds: float
    state: TrainerState
    watch: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    stopped_early: bool = False


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, point LATEST to it, and remove all but the newest `keep`.

    Returns:
        The checkpoint's folder.
    Raises:
        OSError: it could not be written; nothing of it remains, earlier ones are untouched.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    if latest_checkpoint(folder) == final:
        return final
    temporary = folder / f"{_TEMPORARY}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        temporary.mkdir()
        _write_contents(temporary, checkpoint)
        if final.exists():  # renamed before a crash that kept LATEST from naming it
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(folder)
        _write_synced(folder / f"{_TEMPORARY}LATEST", final.name.encode())
        (folder / f"{_TEMPORARY}LATEST").replace(folder / "LATEST")
        _sync_folder(folder)
    except OSError:
        _remove_unfinished(folder)
        raise
    older = sorted(path for path in folder.glob("step-*") if path.name < final.name)
    newer = [path for path in folder.glob("step-*") if path.name > final.name]  # LATEST never was
    for path in older[: max(0, len(older) + 1 - keep)] + newer:
        shutil.rmtree(path)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the folder that LATEST names, or None where there is no checkpoint yet.

    Raises:
        InputError: LATEST names what is not there.
    """
    pointer = folder / "LATEST"
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if Path(name).name != name or not (folder / name / "state.json").is_file():
        raise InputError(
            f"{pointer}: names {name!r}, which is not a checkpoint in {folder}; "
            "write the name of one that is, or start anew with --overwrite"
        )
    return folder / name


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps and seconds behind it, and whether it has stopped early."""

    step: int = 0
    seconds: float = 0.0
    stopped_early: bool = False


def read_progress(path: Path) -> Progress:
    """Return how far the run was at a checkpoint, reading no tensors."""
    state = _read_state_file(path)
    return Progress(state["step"], state["seconds"], state["stopped_early"])


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's folder, tensors onto the CPU.

    Raises:
        InputError: a file is missing, damaged, or of another format version; one line.
    """
    state = _read_state_file(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in state["tensors"]:
        file = path / f"{name}.safetensors"
        try:
            tensors[name] = load_file(file)
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(
                f"{file}: cannot be read ({error}); write the name of an earlier "
                f"checkpoint into {path.parent / 'LATEST'}, or start anew with --overwrite"
            ) from None
    return Checkpoint(
        state["step"],
        state["seconds"],
        TrainerState(
            tensors["model"], tensors["optimizer"], tensors.get("average", {}), state["scalers"]
        ),
        state["watch"],
        tensors.get("best", {}),
        state["stopped_early"],
    )


def _read_state_file(path: Path) -> dict:
    file = path / "state.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); write the name of an earlier checkpoint into "
            f"{path.parent / 'LATEST'}, or start anew with --overwrite"
        ) from None
    if state.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file}: found format version {state.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; resume with the version that wrote it, or use --overwrite"
        )
    return state


def _write_contents(folder: Path, checkpoint: Checkpoint) -> None:
    state = checkpoint.state
    tensors = {"model": state.model, "optimizer": state.optimizer}
    tensors |= {"average": state.average} if state.average else {}
    tensors |= {"best": checkpoint.best} if checkpoint.best else {}
    for name, values in tensors.items():
        _write_synced(folder / f"{name}.safetensors", save(_own_memory(values)))
    written = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "stopped_early": checkpoint.stopped_early,
        "tensors": list(tensors),
        "scalers": state.scalers,
        "watch": checkpoint.watch,
    }
    _write_synced(folder / "state.json", json.dumps(written, indent=1).encode())
    _sync_folder(folder)


def _own_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor contiguous memory of its own, as safetensors asks: weights may be tied."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        owned[name] = tensor.detach().contiguous()
        if shared:
            owned[name] = owned[name].clone()
    return owned


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
