"""Files of a Debian package, by `apt-get download`: nothing is installed, root is not needed."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from data.errors import DataError

_APT_SECONDS = 900
_APT_OPTIONS = [
    "Acquire::Retries=0",
    "Acquire::http::Timeout=10",
    "Acquire::https::Timeout=10",
]


def unpack_debian(package: str, names: Iterable[str], folder: Path) -> None:
    """Put the files of these names into `folder`.

    Raises:
        DataError: apt-get or dpkg are not at hand or fail, or the package lacks a file.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise DataError(f"there is no {program} here")
    options = [word for option in _APT_OPTIONS for word in ("-o", option)]
    _run(["apt-get", *options, "download", package], folder)
    # Absolute, because dpkg runs in that folder.
    archives = [path.resolve() for path in folder.glob("*.deb")]
    if len(archives) != 1:
        raise DataError(f"apt-get download left {len(archives)} packages")
    unpacked = folder.resolve() / "unpacked"
    _run(["dpkg", "-x", str(archives[0]), str(unpacked)], folder)
    archives[0].unlink()
    for name in names:
        found = [path for path in unpacked.rglob(name) if path.is_file() and not path.is_symlink()]
        if not found:
            raise DataError(f"the package holds no {name}")
        found[0].replace(folder / name)


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=_APT_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("E:")]
        said = (lines or error.stderr.splitlines() or ["it said nothing"])[0]
        raise DataError(f"{command[0]} failed: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{command[0]} took more than {_APT_SECONDS} seconds") from error
