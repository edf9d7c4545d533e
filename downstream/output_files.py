"""Files that a command is asked to write: refused where they would replace something unasked."""

from pathlib import Path
from typing import TextIO

from training.errors import NO_SPACE, InputError


def check_output_file(path: Path, *, overwrite: bool, option: str = "--out") -> None:
    """Check that a file may be written there, before work is done for it.

    Raises:
        InputError: it exists, or is a folder; naming the option.
    """
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder; give the name of a file in it")
    if path.exists() and not overwrite:
        raise InputError(f"{option}: {path} exists; --overwrite replaces it, or give another name")


def create_table(path: Path) -> TextIO:
    """Open a new CSV file, and make its folder where that is missing.

    Raises:
        InputError: it cannot be written there; OSError: no space is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise InputError(f"--out: {path}: {error.strerror}; give another name") from error
