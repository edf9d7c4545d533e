"""A folder of bounded size that keeps shards from elsewhere, for one process or several.

A file's name is a hash of its whole URL and of its state there, so that shards of equal names, or
one that has changed, are never taken for each other. A shard is fetched into a file of its own,
which a killed download leaves to the next one, and is renamed once it is whole. Whoever reads a
file holds a shared lock on it, whoever fetches or removes one an exclusive lock: what is in use
stays, and a process that dies gives up its locks.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data.errors import DataError, cause
from data.open_shard import OpenShard
from data.remote_files import CHANGES, MOST_CHANGES, RemoteFiles
from data.transport import FileChangedError, FileState
from data.urls import shown

_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}-(\d+)\.(tar|part)")
_LOCK = "lock"
_LOOK_AGAIN = 0.02  # seconds, while another process or thread fetches the same shard


class CacheFullError(DataError):
    """There is no room for another shard beside those that are being read."""


class ShardCache:
    """Shards from elsewhere, kept here as long as there is room; the least recently used go."""

    def __init__(self, folder: Path, limit: int, files: RemoteFiles) -> None:
        """Keep up to `limit` bytes in an existing folder."""
        self._folder, self._limit, self._files = folder, limit, files

    def open(self, url: str, state: FileState | None = None) -> OpenShard:
        """Return a shard, fetched now if it is not here; as long as it is in use, its file stays.

        Args:
            state: that it was in a moment ago, where that is known.
        Raises:
            CacheFullError: there is no room for it.
            DataError: it cannot be fetched; one line.
        """
        return self._open(url, state)[1]

    def fetch(self, url: str) -> FileState:
        """Fetch a shard if it is not here, see where its samples are, and return its state.

        Raises:
            CacheFullError, DataError: as for `open`.
        """
        return self._open(url, None)[0]

    def _open(self, url: str, known: FileState | None) -> tuple[FileState, OpenShard]:
        for _ in range(MOST_CHANGES):
            state, known = known or self._files.state(url), None
            path = self._folder / _name(url, state)
            try:
                while (descriptor := _open_shared(path)) is None:
                    self._fetch(url, state, path)
                return state, OpenShard(shown(url), path, descriptor, memory=_memory_of(path))
            except FileChangedError:
                continue
            except OSError as error:  # a full disk, or none that can lock files
                raise DataError(
                    f"data.streaming.cache.folder: {self._folder}: {cause(error)}; give a folder "
                    "on a disk of this machine, with room"
                ) from None
        raise DataError(CHANGES.format(shown(url)))

    def _fetch(self, url: str, state: FileState, path: Path) -> None:
        part = path.with_suffix(".part")
        if not self._reserve(path, part, state.size, url):
            return
        with part.open("ab") as file:
            while not _locked(file):
                # Not by waiting for the lock: who has fetched the file may go on to read it.
                if path.exists():
                    return
                time.sleep(_LOOK_AGAIN)
            if not _is_same(file.fileno(), part):
                return  # another process fetched it, or took it away, while this one waited
            if path.exists():  # or just before this file was made
                part.unlink()
                return
            try:
                if file.tell() < state.size:
                    self._files.download(url, state, file)
            except FileChangedError:
                part.unlink()
                raise
            part.rename(path)

    def _reserve(self, path: Path, part: Path, size: int, url: str) -> bool:
        """Make the file that a shard is to be fetched into, and room for all of it; False: it is
        whole by now."""
        with self._alone():
            kept = {path: _size_of(path) for path in self._folder.iterdir() if _is_ours(path)}
            if path in kept:
                return False
            if part in kept:
                return True
            excess = sum(kept.values()) + size - self._limit
            for path in sorted(kept, key=_last_use):
                if excess <= 0:
                    break
                if _removed(path):
                    excess -= kept[path]
            if excess > 0:
                raise CacheFullError(
                    f"data.streaming.cache.size: no room for the {size:,} bytes of {shown(url)} "
                    f"beside the shards being read: {excess:,} bytes more are needed; or set a "
                    "smaller data.streaming.window"
                )
            part.touch()
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process or thread looks for room."""
        with (self._folder / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _name(url: str, state: FileState) -> str:
    place, mark = (hashlib.sha256(text.encode()).hexdigest() for text in (url, state.mark))
    return f"{place[:32]}-{mark[:16]}-{state.size}.tar"


def _memory_of(path: Path) -> Path:
    return path.with_suffix(".samples.npy")


def _is_ours(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None


def _size_of(path: Path) -> int:
    """The bytes that a file has, or is to have."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _open_shared(path: Path) -> int | None:
    """A descriptor of a file that is locked for reading; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_same(descriptor, path):  # it was removed in between
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return descriptor


def _locked(file: BinaryIO) -> bool:
    """Lock a file for this process alone; whether no other one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: Path) -> bool:
    """Remove a file unless someone reads or fetches it; whether that was done."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _memory_of(path).unlink(missing_ok=True)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
