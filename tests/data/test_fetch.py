"""Fetching: the right files are kept, wrong ones refused, and broken downloads go on."""

import dataclasses
import gzip
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.__main__ import main
from data.dataset import read_dataset_info
from data.errors import DataError
from data.fetch import fetch_set
from data.known_sets import KNOWN_SETS, Checksum, KnownSet
from data.sources import About, read_about

CONTENTS = {"images.gz": b"pixels" * 999, "labels.gz": b"numbers" * 99}
ABOUT = About(name="letters", source="the letters' page", classes=["a", "b"])


def zipped(content: bytes) -> bytes:
    """Without the time of day: it would be part of the tests' names, which processes compare."""
    return gzip.compress(content, mtime=0)


def md5(content: bytes) -> Checksum:
    return Checksum("md5", hashlib.md5(content).hexdigest())


class Site:
    """A web site whose files lie in memory, which notes what is asked for and may break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_after: list[int] = []
        """After so many bytes each of the next answers breaks off."""
        self.knows_ranges = True
        self.address = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                site.asked.append((self.path, wanted))
                content = site.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
                if not site.knows_ranges:
                    first = 0
                if first >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if first else 200)
                if first:
                    last = len(content) - 1
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - first))
                self.end_headers()
                sent = site.breaks_after.pop(0) if site.breaks_after else len(content)
                self.wfile.write(content[first : first + sent])

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), site.handler())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def letters(site: Site) -> KnownSet:
    """A set of two files, at one address wrong or missing if a test wants that, and right below."""
    files = {}
    for name, content in CONTENTS.items():
        for part in ("wrong", "right"):
            site.files[f"/{part}/{name}"] = zipped(content)
        files[name] = Checksum("sha256", hashlib.sha256(content).hexdigest(), len(content))
    addresses = (f"{site.address}/wrong/", f"{site.address}/right/")
    return KnownSet(ABOUT, "2 images", addresses, files)


def fetch(known: KnownSet, out: Path) -> list[str]:
    lines: list[str] = []
    fetch_set(known, out, report=lines.append)
    return lines


def assert_fetched(out: Path) -> None:
    for name, content in CONTENTS.items():
        assert gzip.decompress((out / name).read_bytes()) == content
    assert sorted(path.name for path in out.iterdir()) == ["about.json", *sorted(CONTENTS)]
    assert read_about(out) == ABOUT


def test_files_are_fetched_once(site, letters, tmp_path):
    out = tmp_path / "deep" / "raw"
    fetch(letters, out)
    assert_fetched(out)
    site.files.clear()
    assert fetch(letters, out) == [f"{out}: all 2 files are there"]
    (out / "images.gz").write_bytes(b"damaged")
    site.asked.clear()
    with pytest.raises(DataError, match="HTTP status 404"):
        fetch(letters, out)
    assert {path.rpartition("/")[2] for path, _ in site.asked} == {"images.gz"}


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
def test_a_wrong_file_is_refused_and_the_next_address_tried(site, letters, tmp_path, content, said):
    del site.files["/wrong/images.gz"]
    if content is not None:
        site.files["/wrong/images.gz"] = content
    out = tmp_path / "raw"
    lines = fetch(letters, out)
    assert any(said in line for line in lines)
    assert_fetched(out)
    wrong = dataclasses.replace(letters, addresses=letters.addresses[:1])
    with pytest.raises(DataError, match="letters could not be had") as error:
        fetch(wrong, tmp_path / "none")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["labels.gz"]


def test_where_nothing_works_one_line_says_what_to_do(letters, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # a machine without apt-get
    values: dict[str, Any] = {"addresses": ("http://127.0.0.1:9/",), "debian_package": "letters"}
    with pytest.raises(DataError) as error:
        fetch(dataclasses.replace(letters, **values), tmp_path / "raw")
    assert "Connection refused" in str(error.value)
    assert "there is no apt-get here" in str(error.value)
    assert "put images.gz, labels.gz of the letters' page" in str(error.value)
    assert str(tmp_path / "raw") in str(error.value)
    assert "\n" not in str(error.value)


LARGE = bytes(range(256)) * 3000


@pytest.fixture
def large(site: Site) -> KnownSet:
    site.files["/x.bin?download=1"] = LARGE
    return KnownSet(
        ABOUT, "1 image", (f"{site.address}/",), {"x.bin": md5(LARGE)}, query="?download=1"
    )


def test_a_download_that_breaks_off_goes_on_where_it_ended(site, large, tmp_path):
    site.breaks_after = [100_000, 50_000]
    fetch(large, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == LARGE
    assert [wanted for _, wanted in site.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_what_a_killed_download_left_is_used(site, large, tmp_path):
    (tmp_path / ".x.bin.part").write_bytes(LARGE[:500_000])
    fetch(large, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == LARGE
    assert site.asked == [("/x.bin?download=1", "bytes=500000-")]
    (tmp_path / "x.bin").rename(tmp_path / ".x.bin.part")
    fetch(large, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == LARGE
    assert len(site.asked) == 1


def test_a_server_without_ranges_sends_all_again(site, large, tmp_path):
    site.knows_ranges = False
    (tmp_path / ".x.bin.part").write_bytes(LARGE[:500_000])
    fetch(large, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == LARGE
    assert len(site.asked) == 1


@pytest.mark.parametrize("left", [b"of another version", LARGE + b"and more"])
def test_what_is_left_of_another_file_is_done_with(large, tmp_path, left):
    (tmp_path / ".x.bin.part").write_bytes(left)
    fetch(large, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == LARGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["about.json", "x.bin"]


def test_a_server_that_never_sends_a_byte_is_given_up(site, large, tmp_path):
    site.breaks_after = [1000, 0]
    with pytest.raises(DataError, match="closed before the end"):
        fetch(large, tmp_path)
    assert (tmp_path / ".x.bin.part").stat().st_size == 1000


def tar_gz(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def archived(site: Site, content: bytes, members: tuple[str, ...]) -> KnownSet:
    site.files["/a.tar.gz"] = content
    files = {"a.tar.gz": md5(content)}
    return KnownSet(ABOUT, "2 images", (f"{site.address}/",), files, members=members)


def test_wanted_members_of_an_archive_are_unpacked_once(site, tmp_path):
    content = tar_gz({"in/one.bin": b"one", "in/two.bin": b"two", "../three": b"3", "in/no": b"no"})
    known = archived(site, content, ("in/one.bin", "in/two.bin"))
    out = tmp_path / "raw"
    fetch(known, out)
    left = {path.name: path.read_bytes() for path in out.iterdir()}
    assert left.pop("one.bin") == b"one" and left.pop("two.bin") == b"two"
    assert left.keys() == {"about.json", "unpacked.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    site.asked.clear()
    assert fetch(known, out) == [f"{out}: all 2 files are there"]
    assert site.asked == []
    (out / "two.bin").write_bytes(b"2")
    fetch(known, out)
    assert (out / "two.bin").read_bytes() == b"two"


def test_an_archive_without_a_wanted_file_is_refused(site, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"not yours")
    content = tar_gz({"in/one.bin": b"one"}, links={"in/two.bin": str(outside)})
    with pytest.raises(DataError, match=r"a\.tar\.gz: holds no two\.bin"):
        fetch(archived(site, content, ("in/one.bin", "in/two.bin")), tmp_path / "raw")
    assert outside.read_bytes() == b"not yours"


def test_the_command_fetches_what_pack_reads(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez(
        file,
        train_images=rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
        train_labels=np.array([[0], [1], [0], [1], [0], [1]]),
    )
    site.files["/cells.npz?download=1"] = file.getvalue()
    cells = dataclasses.replace(
        KNOWN_SETS["bloodmnist"],
        about=About(name="cells", classes=["round", "flat"]),
        addresses=(f"{site.address}/",),
        files={"cells.npz": md5(file.getvalue())},
    )
    monkeypatch.setitem(KNOWN_SETS, "cells", cells)
    assert main(["fetch", "cells"]) == 0
    said = capsys.readouterr().out
    assert "checked by md5" in said
    command = said.splitlines()[-1].removeprefix("next: python -m data ").split()
    assert main(command) == 0
    info = read_dataset_info(tmp_path / "datasets" / "cells")
    assert (info.name, info.classes, info.counts) == ("cells", ["round", "flat"], {"train": 6})


def test_known_sets_can_be_told_from_their_files():
    for name, known in KNOWN_SETS.items():
        assert known.about.name == name
        for checksum in known.files.values():
            digits = {"md5": 32, "sha256": 64}[checksum.kind]
            assert re.fullmatch(rf"[0-9a-f]{{{digits}}}", checksum.digest)
        assert all(address.endswith("/") for address in known.addresses)
        assert not known.members or len(known.files) == 1
