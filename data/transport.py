"""What reads files behind URLs, whatever service they are kept by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from data.errors import DataError

# What tells one state of a file from another, by the names that services give it.
_MARKS = ("ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "LastModified", "mtime")


@dataclass(frozen=True, slots=True)
class FileState:
    """One state of a file: its bytes, and the mark its server gives it ("" where it gives none)."""

    size: int
    mark: str


class FileChangedError(Exception):
    """A file is not in the state any more that it was in."""


class FileRefusedError(Exception):
    """A server's answer that another try would not change; the text is what it said."""


class Transport(Protocol):
    """Reads files of one service, one try at a time.

    What it raises may be over at the next try, but for FileNotFoundError, PermissionError,
    FileChangedError and FileRefusedError.
    """

    def state(self, url: str) -> FileState:
        """Ask for the state of a file."""
        ...

    def append(self, url: str, state: FileState, file: BinaryIO) -> None:
        """Append what `file` does not hold yet of a file in this state, as far as it gets."""
        ...

    def list_matching(self, pattern: str) -> list[str]:
        """List the URLs that a pattern of `*`, `?` and `[...]` matches."""
        ...


def mark_of(said: Mapping[str, object]) -> str:
    """Return the mark of a state, among what a service says of a file."""
    return str(next((said[name] for name in _MARKS if said.get(name)), ""))


def write_to(file: BinaryIO, data: bytes) -> None:
    """Append bytes that came.

    Raises:
        DataError: the disk is full, or fails; one line.
    """
    try:
        file.write(data)
    except OSError as error:
        raise DataError(f"{file.name}: cannot be written: {error.strerror}") from None
