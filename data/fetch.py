"""Getting a known set: every file is checked by its published checksum before it is kept.

A file is downloaded under a hidden name that stays after a kill, so that the next call goes on
there. What an archive was unpacked to is noted beside it, so that it is known again.
"""

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from data.debian_package import unpack_debian
from data.download import download
from data.errors import DataError, cause
from data.known_sets import Checksum, KnownSet
from data.sources import ABOUT_FILE, file_sha256

UNPACKED_FILE = "unpacked.json"
"""The checksums of what was unpacked from an archive, and that of the archive."""

_CHUNK_BYTES = 2**20

Report = Callable[[str], None]


def fetch_set(
    known: KnownSet,
    out: Path,
    *,
    timeout_seconds: float = 10.0,
    report: Report = lambda line: None,
) -> None:
    """Put the files of a set, unpacked where they are an archive, and an `about.json` into `out`.

    Files that are there already and are the right ones are kept.

    Args:
        timeout_seconds: how long an address may stay silent.
        report: called with one line per thing tried.
    Raises:
        DataError: no way worked; it says why, and what to do by hand.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = [name for name, sum_ in known.files.items() if not _is_there(known, out, name, sum_)]
    if not missing:
        report(f"{out}: all {len(known.members) or len(known.files)} files are there")
    failures: list[str] = []
    for address in known.addresses:
        if missing:
            report(f"trying {address}")
            missing = _from_web(known, address, missing, out, timeout_seconds, report, failures)
    if missing and known.debian_package is not None:
        report(f"trying Debian package {known.debian_package}")
        missing = _from_debian(known, known.debian_package, missing, out, report, failures)
    if missing:
        raise DataError(
            f"{known.about.name} could not be had: put {', '.join(missing)} of "
            f"{known.about.source} into {out} and run this again. {'; '.join(failures)}"
        )
    for name in known.files:
        if known.members and (out / name).exists():
            report(f"unpacking {name}")
            _unpack(known, out, name)
    _write_about(known, out)


def problem(path: Path, checksum: Checksum) -> str | None:
    """What is wrong with a file; None where it is the known one."""
    if not path.is_file():
        return "missing"
    content, length = hashlib.new(checksum.kind, usedforsecurity=False), 0
    most = checksum.unpacked_bytes
    try:
        with path.open("rb") if most is None else gzip.open(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
                length += len(chunk)
                if most is not None and length > most:
                    return f"unpacks to more than its {most} bytes"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"does not unpack: {error}"
    right = content.hexdigest() == checksum.digest
    return None if right else f"its {checksum.kind} is not the known one"


def _is_there(known: KnownSet, out: Path, name: str, checksum: Checksum) -> bool:
    if known.members and _unpacked_before(known, out, checksum):
        return True
    return problem(out / name, checksum) is None


def _from_web(
    known: KnownSet,
    address: str,
    names: list[str],
    out: Path,
    timeout_seconds: float,
    report: Report,
    failures: list[str],
) -> list[str]:
    """Get files from an address; return those that could not be had."""
    missing = []
    for name in names:
        part = out / f".{name}.part"
        resumed = part.exists()
        try:
            found = problem(part, known.files[name])
            if found is not None:
                download(address + name + known.query, part, timeout_seconds=timeout_seconds)
                found = problem(part, known.files[name])
            if found is not None and resumed:
                # Of another version, or of another address: once more from its beginning.
                part.unlink()
                download(address + name + known.query, part, timeout_seconds=timeout_seconds)
                found = problem(part, known.files[name])
            if found is not None:
                part.unlink()
                raise DataError(found)
        except DataError as error:
            report(f"  {name}: {error}")
            missing.append(name)
            if len(missing) == 1:  # the others fail for the same reason, or have been reported
                failures.append(f"{address} ({name}: {error})")
            continue
        part.replace(out / name)
        report(f"  {name}: {known.files[name].kind} as it should be")
    return missing


def _from_debian(
    known: KnownSet, package: str, names: list[str], out: Path, report: Report, failures: list[str]
) -> list[str]:
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=out) as temporary:
        try:
            unpack_debian(package, names, Path(temporary))
            for name in names:
                if (found := problem(Path(temporary) / name, known.files[name])) is not None:
                    raise DataError(f"{name}: {found}")
        except DataError as error:
            report(f"  {error}")
            failures.append(f"Debian package {package} ({error})")
            return names
        for name in names:
            (Path(temporary) / name).replace(out / name)
    return []


def _unpacked_before(known: KnownSet, out: Path, checksum: Checksum) -> bool:
    """Whether the members of this archive are there, unchanged."""
    try:
        noted = json.loads((out / UNPACKED_FILE).read_bytes())
        if noted["archive"] != checksum.digest:
            return False
        names = [PurePosixPath(member).name for member in known.members]
        return all(file_sha256(out / name) == noted["files"][name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unpack(known: KnownSet, out: Path, archive: str) -> None:
    """Write the wanted members of a `.tar.gz` into `out`, flat, and remove it."""
    wanted = {member: PurePosixPath(member).name for member in known.members}
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=out) as temporary:
        hashes = {}
        try:
            with tarfile.open(out / archive, "r|gz") as tar:
                for member in tar:
                    name = wanted.get(member.name.removeprefix("./"))
                    content = tar.extractfile(member) if name and member.isreg() else None
                    if name is None or content is None:
                        continue
                    with (Path(temporary) / name).open("wb") as file:
                        shutil.copyfileobj(content, file, _CHUNK_BYTES)
                    hashes[name] = file_sha256(Path(temporary) / name)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{out / archive}: does not unpack: {cause(error)}") from error
        if lacking := sorted(set(wanted.values()) - hashes.keys()):
            raise DataError(f"{out / archive}: holds no {lacking[0]}")
        for name in hashes:
            (Path(temporary) / name).replace(out / name)
    noted = {"archive": known.files[archive].digest, "files": hashes}
    _write(out / UNPACKED_FILE, json.dumps(noted, indent=1))
    (out / archive).unlink()


def _write_about(known: KnownSet, out: Path) -> None:
    _write(out / ABOUT_FILE, known.about.model_dump_json(indent=2))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text + "\n", "utf-8")
    temporary.replace(path)
