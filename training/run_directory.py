"""The folder of a run: config, environment, log and trackers, previews, checkpoints."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from training.checkpoints import (
    Checkpoint,
    Progress,
    latest_checkpoint,
    load_checkpoint,
    read_progress,
)
from training.compute import on_main
from training.config import difference, dump_config, first_difference
from training.environment import describe_environment
from training.errors import NO_SPACE, InputError
from training.previews import grid_of, save_animation, save_png
from training.trackers import TrackerName, check_trackers, show_picture, start_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

DIVERGED = "diverged.txt"
"""The error that ended a run whose loss was not finite; removed where the run goes on."""

_OWN_FOLDERS = ("tensorboard", "previews", "checkpoints")
# They say where the run lies, not what it does: a run may be moved and then resumed.
_PLACE_KEYS = ("name", "runs_dir")


class LogConfig(BaseModel):
    """How often numbers are written down, and where besides log.jsonl."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=50, ge=1, description="Steps between lines of log.jsonl.")
    trackers: tuple[TrackerName, ...] = Field(
        default=("tensorboard",), description="Where the same numbers go; others are extras."
    )
    project: str = Field(
        default="underlayer",
        min_length=1,
        description="The project or experiment that wandb, mlflow and trackio file the run under.",
    )


class RunDirectory:
    """One run's folder. `open` looks and refuses, `start` is the first to write.

    Attributes:
        path: the folder.
        resumed: whether it holds a run that is to go on.
    """

    def __init__(
        self,
        path: Path,
        config: BaseModel,
        accelerator: Accelerator,
        *,
        log: LogConfig,
        resumed: bool,
        exports: Sequence[str],
        free: Sequence[str],
    ) -> None:
        self.path = path
        self.resumed = resumed
        self._config = config
        self._accelerator = accelerator
        self._log = log
        self._exports = exports
        self._free = free
        self._trackers: list[GeneralTracker] | None = None
        self._lock: int | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: BaseModel,
        accelerator: Accelerator,
        *,
        resume: bool | None,
        overwrite: bool,
        log: LogConfig = LogConfig(),
        exports: Sequence[str] = (),
        free: Sequence[str] = (),
    ) -> RunDirectory:
        """Check that a run may be made or resumed in a folder; write nothing.

        Args:
            path: the folder, which need not exist.
            config: the whole resolved config of the run.
            resume: go on with the run in the folder; start one where there is none. None: such runs
                cannot be gone on with.
            overwrite: remove the run in the folder first.
            log: where numbers go besides log.jsonl.
            exports: names of files and folders that the caller writes into the folder, or patterns
                of names: part of the run.
            free: top-level keys of the config that may change as a run goes on, because nothing
                that it keeps depends on them; the folder's config then says the new values.
        Raises:
            InputError: the folder holds a run and neither flag is set, or a run of another
                config, or something that is not a run; or a tracker is not installed; one line.
        """
        path = Path(path)
        check_trackers(log.trackers)
        on_main(
            accelerator,
            lambda: _check(path, config, resume=resume, overwrite=overwrite, free=free),
        )
        resumed = bool(resume) and (path / "config.yaml").exists()
        return cls(path, config, accelerator, log=log, resumed=resumed, exports=exports, free=free)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def progress(self) -> Progress:
        """Return how far a resumed run is; nothing is behind any other."""
        latest = latest_checkpoint(self.checkpoints) if self.resumed else None
        return read_progress(latest) if latest else Progress()

    def start(self, provenance: Mapping[str, Any]) -> Checkpoint | None:
        """Make or tidy the folder; return the checkpoint to go on from, if there is one.

        Lines of the log later than that checkpoint are cut: those steps are taken again.

        Args:
            provenance: what a resumed run must share with its beginning besides the config,
                fit for JSON, such as the data's fingerprint; kept in environment.json.
        Raises:
            InputError: another process trains here, the run began on other data, or its
                checkpoint is damaged.
        """
        checkpoint = None
        on_main(self._accelerator, lambda: self._prepare(provenance))
        if self.resumed and (latest := latest_checkpoint(self.checkpoints)):
            checkpoint = load_checkpoint(latest)
        step = checkpoint.step if checkpoint else 0
        on_main(self._accelerator, lambda: self._begin_log(step, provenance))
        return checkpoint

    def log(self, values: Mapping[str, float]) -> None:
        """Append one line of numbers, "step" among them, to log.jsonl and the trackers."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")
        step = int(values["step"])
        for tracker in self._started_trackers(step):
            tracker.log({k: v for k, v in values.items() if k != "step"}, step=step)

    def save_previews(self, pictures: Mapping[str, Tensor], step: int) -> None:
        """Write each batch of pictures as previews/NAME-STEP.png, and show it in the trackers."""
        folder = self.path / "previews"
        folder.mkdir(exist_ok=True)
        for name, images in pictures.items():
            grid = grid_of(images)
            save_png(folder / f"{name}-{step:08d}.png", grid)
            for tracker in self._started_trackers(step):
                show_picture(tracker, f"previews/{name}", grid, step)

    def save_animation(self, name: str) -> None:
        """Write previews/NAME.gif of all its previews so far, in the order of their steps."""
        folder = self.path / "previews"
        frames = sorted(folder.glob(f"{name}-*.png"))
        if len(frames) > 1:
            save_animation(folder / f"{name}.gif", frames)

    def note_divergence(self, error: str) -> None:
        """Leave word for who reads the folder that the run ended by this error."""
        if self._accelerator.is_main_process:
            _write_text(self.path / DIVERGED, f"{error}\n")

    def finish_trackers(self) -> None:
        """End the trackers: what they have not written yet is written, or an OSError says why."""
        trackers, self._trackers = self._trackers or [], []
        for tracker in trackers:
            tracker.finish()

    def close(self) -> None:
        """End the trackers, if that is not done yet, and let others write here."""
        try:
            self.finish_trackers()
        except OSError as error:
            # A full disk, which has ended the run with an error of its own already.
            if error.errno not in NO_SPACE:
                raise
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _started_trackers(self, step: int) -> list[GeneralTracker]:
        if self._trackers is None:  # only now: their imports take seconds
            environment = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
            self._trackers = start_trackers(
                self._log.trackers,
                folder=self.path,
                project=self._log.project,
                run_id=environment["run_id"],
                config=self._config.model_dump(mode="json"),
                step=step - 1,
            )
        return self._trackers

    def _prepare(self, provenance: Mapping[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError, PermissionError) as error:
            raise InputError(
                f"{self.path}: cannot be made ({error.strerror}); choose another folder"
            ) from None
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another process is training here; wait for it or choose another name"
            ) from None
        if self.resumed:
            self.check_provenance(provenance)
            if self._free:
                _write_text(self.path / "config.yaml", dump_config(self._config))
            return
        for name in (*_OWN_FOLDERS, "environment.json", "log.jsonl", *self._exports):
            for found in self.path.glob(name):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        # Last, and never absent: it is what makes the folder a run.
        _write_text(self.path / "config.yaml", dump_config(self._config))

    def check_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Check that what a run rests on is what it began with.

        Raises:
            InputError: naming the first key that differs.
        """
        file = self.path / "environment.json"
        if not file.exists():  # it died before it began
            return
        then = json.loads(file.read_text(encoding="utf-8"))
        found = difference(provenance, {key: then.get(key) for key in provenance})
        if found:
            key, before, now = found
            is_hash = key.endswith("sha256")
            change = "has other content" if is_hash else f"is {before} there and {now}"
            raise InputError(
                f"{file}: {key} {change} now; resume on what the run began with, or start anew "
                "with --overwrite"
            )

    def _begin_log(self, step: int, provenance: Mapping[str, Any]) -> None:
        file = self.path / "environment.json"
        now = describe_environment(self._accelerator)
        if self.resumed and file.exists():
            environment = json.loads(file.read_text(encoding="utf-8"))
            environment.setdefault("resumed", []).append({"step": step, **now})
        else:
            environment = {"run_id": uuid.uuid4().hex, **now, **provenance}
        _write_text(file, json.dumps(environment, indent=2) + "\n")
        (self.path / DIVERGED).unlink(missing_ok=True)
        log = self.path / "log.jsonl"
        if log.exists():
            _write_text(log, "".join(_lines_until(log, step)))


def _check(
    path: Path, config: BaseModel, *, resume: bool | None, overwrite: bool, free: Sequence[str]
) -> None:
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one of them")
    if not path.exists():
        return
    config_file = path / "config.yaml"
    if not config_file.exists():
        if not path.is_dir() or any(not p.name.startswith(".") for p in path.iterdir()):
            raise InputError(f"{path}: exists and is not a run; choose another name")
        return
    if overwrite:
        return
    if not resume:
        going_on = "" if resume is None else "--resume goes on with it, "
        raise InputError(
            f"{path}: this run exists; {going_on}--overwrite removes it first, or choose another "
            "name"
        )
    found = first_difference(
        config, config_file.read_text(encoding="utf-8"), ignore=(*_PLACE_KEYS, *free)
    )
    if found:
        key, then, now = found
        raise InputError(
            f"{config_file}: {key} is {then} in this run and {now} now; resume with the same "
            "config, choose another name, or remove the run with --overwrite"
        )


def _lines_until(log: Path, step: int) -> list[str]:
    """Return the log's lines up to a step, without one that a kill cut in the middle."""
    lines = []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            lines.append(line)
    return lines


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
