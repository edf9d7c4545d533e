"""Pages and pictures as files: whole or not at all."""

from contextlib import suppress
from pathlib import Path

from pages.errors import PageError


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole, and its folder where it is missing.

    Raises:
        PageError: it cannot be written there; one line.
    """
    temporary = path.parent / f".{path.name}.writing"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PageError(f"{path}: cannot be written ({reason}): choose another place") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
