"""A folder that appears whole or not at all: it is written hidden, beside its place, and renamed.

What a killed process leaves there is removed by the next, or used.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data.errors import DataError


@contextlib.contextmanager
def hidden_folder(out: Path, *, keep: bool = False) -> Iterator[Path]:
    """A folder beside `out` that only this process writes to; removed in the end.

    It is empty. To `keep` what a killed process left is to find that there, and to leave it after
    an interrupt as after a kill; it is then the caller's to check.
    """
    hidden = out.parent / f".{out.name}.packing"
    try:
        hidden.mkdir(parents=True, exist_ok=True)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise DataError(f"{out}: cannot be made: {error.strerror}: {error.filename}") from error
    lock = os.open(hidden, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock), hidden.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError) as error:
            raise DataError(f"{out}: another process is writing into it; wait for it") from error
        try:
            if not keep:
                _empty(hidden)
            yield hidden
        except BaseException as error:
            if isinstance(error, Exception) or not keep:
                shutil.rmtree(hidden, ignore_errors=True)
            raise
        shutil.rmtree(hidden, ignore_errors=True)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for leftover in folder.iterdir():
        leftover.unlink()


def publish(hidden: Path, out: Path) -> None:
    """Put what is in `hidden` in the place of `out`."""
    replaced = out.parent / f".{out.name}.replaced"
    if replaced.exists():
        shutil.rmtree(replaced)
    if out.exists():
        out.rename(replaced)
    hidden.rename(out)
    if replaced.exists():
        shutil.rmtree(replaced)
