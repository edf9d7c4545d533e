"""Fetching: the right files are kept, wrong ones refused, and the next way is tried."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.errors import DataError
from data.fetch import fetch_fashion_mnist
from data.sources import read_about

CONTENTS = {"images.gz": b"pixels" * 999, "labels.gz": b"numbers" * 99}
FILES = {name: (len(c), hashlib.sha256(c).hexdigest()) for name, c in CONTENTS.items()}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder with the files in two subfolders, and the address where it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "site"
    for part in ("wrong", "right"):
        (root / part).mkdir(parents=True)
        for name, content in CONTENTS.items():
            (root / part / name).write_bytes(gzip.compress(content))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(out: Path, *addresses: str, **options: object) -> list[str]:
    lines: list[str] = []
    options = {"debian_package": None, **options}
    fetch_fashion_mnist(out, addresses=addresses, files=FILES, report=lines.append, **options)
    return lines


def assert_fetched(out: Path) -> None:
    for name, content in CONTENTS.items():
        assert gzip.decompress((out / name).read_bytes()) == content
    assert sorted(path.name for path in out.iterdir()) == ["about.json", *sorted(CONTENTS)]
    assert read_about(out).classes[9] == "Ankle boot"


def test_files_are_fetched_once(site, tmp_path):
    root, address = site
    out = tmp_path / "deep" / "raw"
    fetch(out, address + "right/")
    assert_fetched(out)
    (root / "right" / "images.gz").unlink()
    assert fetch(out, address + "right/") == [f"{out}: all 2 files are there"]
    (out / "images.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="HTTP status 404"):
        fetch(out, address + "right/")


def zipped(content: bytes) -> bytes:
    """Without the time of day: it would be part of the tests' names, which processes compare."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (zipped(b"other" * 999), "sha256 is not the known one"),
        (zipped(CONTENTS["images.gz"] + b"!"), "unpacks to more than its 5994 bytes"),
        (zipped(CONTENTS["images.gz"])[:-9], "does not unpack"),
        (b"<html>please log in</html>", "does not unpack"),
        (None, "HTTP status 404"),
    ],
)
def test_a_wrong_file_is_refused_and_the_next_address_tried(site, tmp_path, content, said):
    root, address = site
    wrong = root / "wrong" / "images.gz"
    wrong.unlink() if content is None else wrong.write_bytes(content)
    out = tmp_path / "raw"
    lines = fetch(out, address + "wrong/", address + "right/")
    assert any(said in line for line in lines)
    assert_fetched(out)
    with pytest.raises(DataError, match="could not be had") as error:
        fetch(tmp_path / "none", address + "wrong/")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "none").iterdir()) == []


def test_where_nothing_works_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PATH", "")  # a machine without apt-get
    with pytest.raises(DataError) as error:
        fetch(tmp_path / "raw", "http://127.0.0.1:9/", debian_package="dataset-fashion-mnist")
    assert "Connection refused" in str(error.value)
    assert "there is no apt-get here" in str(error.value)
    assert "put images.gz, labels.gz of Fashion-MNIST" in str(error.value)
    assert str(tmp_path / "raw") in str(error.value)
    assert "\n" not in str(error.value)
