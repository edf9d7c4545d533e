"""Hands batch scripts to Slurm through submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import InputError

Options = Mapping[str, str | int | bool]

# submitit decides where the log goes.
_NOT_TAKEN_OVER = ("output", "error", "open-mode")


@dataclass(frozen=True)
class Submission:
    """A job that waits in the queue.

    Attributes:
        log: the file to which all of its ranks write, once it runs; of an array, that of each task
            with * for its number.
    """

    job_id: str
    log: Path


def read_options(script: Path) -> dict[str, str | bool]:
    """Return the options on a batch script's #SBATCH lines, without their leading dashes.

    Raises:
        InputError: there is no such file.
    """
    try:
        text = script.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{script}: cannot be read ({(error.strerror or 'unknown error').lower()}); start in "
            "the project's folder or name the batch script by --script"
        ) from None
    found = re.findall(r"^#SBATCH\s+--([a-z-]+)(?:=(.*\S))?\s*$", text, re.MULTILINE)
    return {key: value or True for key, value in found}


def given_options(texts: Sequence[str]) -> dict[str, str]:
    """Return options of sbatch that were given as KEY=VALUE.

    Raises:
        InputError: one is not of that form.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"--sbatch: found {text!r}; use KEY=VALUE, as --sbatch account=vision")
        options[key] = value
    return options


def job_shape(options: Options) -> tuple[int, int]:
    """Return the number of nodes and of ranks on each that sbatch's options ask for.

    Raises:
        InputError: one of them is no number.
    """
    values = [options.get(key, 1) for key in ("nodes", "ntasks-per-node")]
    try:
        nodes, ranks = (int(value) for value in values)
    except ValueError:
        raise InputError(
            f"nodes and ntasks-per-node: found {values[0]!r} and {values[1]!r}; give whole numbers"
        ) from None
    return nodes, ranks


def submit(
    script: Path,
    arguments: Sequence[str],
    options: Options,
    *,
    folder: Path,
    tasks: int | None = None,
) -> Submission:
    """Put a batch script into Slurm's queue.

    submitit writes the file that is submitted and the job's log into `folder`; the job runs the
    script itself, so that it is stopped and requeued as under sbatch. Nothing is pickled.

    Args:
        script: a bash script with #SBATCH lines.
        arguments: given to the script.
        options: of sbatch, without leading dashes; they replace those on the #SBATCH lines, of
            which those for the log count for nothing.
        folder: must be visible on the nodes.
        tasks: of an array, numbered from 0; None: a job of its own.
    Raises:
        InputError: submitit or Slurm is not installed here, or Slurm refuses; one line.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ModuleNotFoundError:
        raise InputError(
            "submit: submitit is not installed; pip install -e '.[slurm]', or give the "
            f"batch script to Slurm by hand: sbatch {script} CONFIG"
        ) from None
    wanted = {**read_options(script), **options}
    for key in _NOT_TAKEN_OVER:
        wanted.pop(key, None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({os.strerror(error.errno or 0).lower()}); choose another "
            "--folder"
        ) from None
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError:
        raise InputError(
            "submit: found no Slurm (no srun on the path); start it where sbatch works"
        ) from None
    executor.update_parameters(
        additional_parameters={key.replace("-", "_"): value for key, value in wanted.items()},
        # The job's python is this one, whether or not its environment is active.
        setup=[f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"],
        stderr_to_stdout=True,
        use_srun=False,
    )
    if tasks is not None:  # as submitit itself makes an array, which update_parameters refuses
        executor.parameters["map_count"] = tasks
        executor.parameters["array_parallelism"] = tasks
    # Not executor.submit, which pickles a function and would take the signals for itself. exec:
    # the script gets the signals that Slurm sends to the batch shell.
    command = shlex.join(["exec", "bash", str(script.resolve()), *arguments])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the error has it all
            job = executor._submit_command(command)
    except FailedJobError as error:
        raise InputError(f"submit: Slurm refuses: {_reason(error)}") from None
    log = job.paths.stdout
    if tasks is not None:
        log = log.with_name(log.name.replace(job.job_id, f"{job.job_id}_*", 1))
    return Submission(job.job_id, log)


def _reason(error: Exception) -> str:
    """Return what sbatch said, in one line."""
    lines = re.findall(r"^sbatch: (?:error: )?(.*)$", str(error), re.MULTILINE)
    return "; ".join(lines) or str(error).strip().split("\n")[-1]
