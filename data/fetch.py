"""Getting full Fashion-MNIST: from its official address, else from Debian's package.

Whatever the way, every file is checked before it is kept: the sha256 of its unpacked contents is
known. (The packed bytes are not compared: Debian's package compresses the same contents anew.)
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from data.bundled_sets import FASHION_MNIST
from data.errors import DataError
from data.sources import ABOUT_FILE

KnownFiles = Mapping[str, tuple[int, str]]
"""Unpacked size in bytes and sha256 of the unpacked contents, by name."""

FASHION_MNIST_FILES: KnownFiles = {
    "train-images-idx3-ubyte.gz": (
        47_040_016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": (
        60_008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte.gz": (
        7_840_016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        10_008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
# One bucket: by https, and the website that the official README links to, which has only http.
FASHION_MNIST_ADDRESSES = (
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
DEBIAN_PACKAGE = "dataset-fashion-mnist"

_CHUNK_BYTES = 2**20
_MAX_DOWNLOAD_BYTES = 2**26
_APT_SECONDS = 900
_APT_OPTIONS = [
    "Acquire::Retries=0",
    "Acquire::http::Timeout=10",
    "Acquire::https::Timeout=10",
]


def fetch_fashion_mnist(
    out: Path,
    *,
    addresses: Sequence[str] = FASHION_MNIST_ADDRESSES,
    debian_package: str | None = DEBIAN_PACKAGE,
    files: KnownFiles = FASHION_MNIST_FILES,
    timeout_seconds: float = 5.0,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Put the IDX files of Fashion-MNIST and an `about.json` into the folder `out`.

    Files that are there already and are the right ones are kept.

    Args:
        addresses: folders on the web, tried in turn; each ends with a slash.
        debian_package: tried after them, where apt-get and dpkg are at hand; None leaves it out.
        files: what is asked for, and how it is known to be right.
        timeout_seconds: how long an address may stay silent.
        report: called with one line per thing tried.
    Raises:
        DataError: no way worked; it says why, and what to do by hand.
    """
    out.mkdir(parents=True, exist_ok=True)
    if all(_problem(out / name, known) is None for name, known in files.items()):
        report(f"{out}: all {len(files)} files are there")
        _write_about(out)
        return
    ways: dict[str, Callable[[Path], None]] = {
        address: partial(_download, address, files, timeout_seconds) for address in addresses
    }
    if debian_package is not None:
        ways[f"Debian package {debian_package}"] = partial(_unpack_debian, debian_package, files)
    failures: list[str] = []
    for name, get in ways.items():
        report(f"trying {name}")
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=out) as temporary:
            folder = Path(temporary)
            try:
                get(folder)
                for file, known in files.items():
                    if (problem := _problem(folder / file, known)) is not None:
                        raise DataError(f"{file}: {problem}")
            except DataError as error:
                report(f"  {error}")
                failures.append(f"{name} ({error})")
                continue
            for file in files:
                (folder / file).replace(out / file)
        _write_about(out)
        return
    raise DataError(
        f"fashion-mnist could not be had from {'; '.join(failures)}; put {', '.join(files)} of "
        f"{FASHION_MNIST.source} into {out} and run this again"
    )


def _download(address: str, files: KnownFiles, timeout_seconds: float, folder: Path) -> None:
    for name in files:
        try:
            with (
                urlopen(address + name, timeout=timeout_seconds) as answer,
                (folder / name).open("wb") as file,
            ):
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    if file.tell() > _MAX_DOWNLOAD_BYTES:
                        raise DataError(f"{name}: longer than {_MAX_DOWNLOAD_BYTES} bytes")
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(error, HTTPError):
                reason = f"HTTP status {error.code} ({reason})"
            raise DataError(f"{name}: {reason}") from error


def _unpack_debian(package: str, files: KnownFiles, folder: Path) -> None:
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
    for name in files:
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


def _problem(path: Path, known: tuple[int, str]) -> str | None:
    """What is wrong with a file; None where its unpacked contents are the known ones."""
    size, sha256 = known
    if not path.is_file():
        return "missing"
    content, length = hashlib.sha256(), 0
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                content.update(chunk)
                length += len(chunk)
                if length > size:
                    return f"unpacks to more than its {size} bytes"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"does not unpack: {error}"
    return None if content.hexdigest() == sha256 else "its sha256 is not the known one"


def _write_about(out: Path) -> None:
    temporary = out / f".{ABOUT_FILE}.{os.getpid()}"
    temporary.write_text(FASHION_MNIST.model_dump_json(indent=2) + "\n", "utf-8")
    temporary.replace(out / ABOUT_FILE)
