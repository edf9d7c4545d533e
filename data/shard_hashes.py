"""SHA-256 of shard files, remembered so that unchanged files are not read again."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from data.sources import file_sha256

_FILE = "shard-hashes.json"
# A file that was just written can change again within the clock's resolution, unnoticed.
_SETTLED_NS = 2 * 10**9


class _Remembered(BaseModel):
    size: int
    mtime_ns: int
    sha256: str


_REMEMBERED = TypeAdapter(dict[str, _Remembered])


def hash_shards(shards: Sequence[Path], memory: Path) -> list[str]:
    """SHA-256 of each file's bytes, in hex.

    Args:
        memory: an existing folder where hashes are remembered by path, size and time of change.
    """
    known = _read(memory / _FILE)
    changed = False
    hashes: list[str] = []
    for shard in shards:
        path = str(shard.resolve())
        status = shard.stat()
        entry = known.get(path)
        if entry is None or (entry.size, entry.mtime_ns) != (status.st_size, status.st_mtime_ns):
            digest = file_sha256(shard)
            entry = _Remembered(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=digest)
            if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
                known[path] = entry
                changed = True
        hashes.append(entry.sha256)
    if changed:
        _write(memory / _FILE, known)
    return hashes


def _read(path: Path) -> dict[str, _Remembered]:
    try:
        return _REMEMBERED.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}  # damaged or not there: the shards are hashed again


def _write(path: Path, known: dict[str, _Remembered]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    entries = {name: entry.model_dump() for name, entry in known.items()}
    try:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
