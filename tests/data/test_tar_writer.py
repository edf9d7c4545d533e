"""Tars as `tarfile` writes them, byte for byte."""

import io
import random
import tarfile

from data.shards import iter_samples
from data.tar_writer import TarWriter


def test_tars_equal_those_of_tarfile(tmp_path):
    draw = random.Random(0)
    names = ["0.png", "a/b.c.cls", "z" * 99, "z" * 100, "z" * 300 + ".png", "é.png"]
    members = [(draw.choice(names), draw.randbytes(draw.randint(0, 2000))) for _ in range(200)]
    ours = TarWriter(tmp_path / "ours.tar")
    for name, data in members:
        ours.add(name, data)
    ours.close()
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.PAX_FORMAT) as theirs:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            theirs.addfile(info, io.BytesIO(data))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    assert ours.offset == (tmp_path / "ours.tar").stat().st_size


def test_an_abandoned_tar_is_seen_to_be_cut_off(tmp_path):
    tar = TarWriter(tmp_path / "cut.tar")
    tar.add("0.png", b"x")
    tar.abandon()
    (only,) = iter_samples(tmp_path / "cut.tar")  # what follows it may be lost
    assert "truncated" in only.reason
