"""Files that appear only when they are whole, and then stay, whoever else makes them."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_once(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file, and its folder where it is missing; if another process is first, its stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by process number: on a shared disk two machines may have the same.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass  # others may have read it: a transform that replaced it would not be theirs
        except OSError:
            temporary.replace(path)  # the disk has no hard links
    finally:
        temporary.unlink(missing_ok=True)
