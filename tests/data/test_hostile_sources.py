"""Packing hostile sources: refused in one line, with nothing run, read or written elsewhere."""

import gzip
import io
import os
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from tests.data.hostile_images import array_text, hostile_images, npy_header
from tests.data.hostile_shard import CODE, Payload
from tests.data.tars import encode, npy, random_images
from tests.processes import environment

IMAGES = random_images(4, 8, 8)
LABELS = np.arange(4)
LONGEST_LINE = 1000


@pytest.fixture(autouse=True)
def mark(tmp_path_factory, monkeypatch):
    """No payload may make this file."""
    path = tmp_path_factory.mktemp("mark") / "mark"
    monkeypatch.setenv("HOSTILE_MARK", str(path))
    yield
    assert not path.exists()


def refusal(source: Path, out: Path) -> str:
    """The one line with which packing ends; nothing is written."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(DataError) as error:
        pack(source, out)
    assert sorted(source.parent.rglob("*")) == before
    line = str(error.value)
    assert str(source.name) in line or source.is_dir()
    assert line.isprintable() and len(line) < LONGEST_LINE
    return line


def npz(path: Path, **members: bytes) -> Path:
    """A zip of these files, `.npy` added to their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def idx(kind: int, *shape: int, values: bytes = b"") -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + values


# ---- npz

OBJECTS = npy(np.array([[Payload()]] * 4, dtype=object), allow_pickle=True)
PIXELS, NUMBERS = npy(IMAGES), npy(LABELS)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"images": OBJECTS}, "Python objects"),
        ({"images": PIXELS, "labels": OBJECTS}, "Python objects"),
        ({"images": CODE}, "not an npy array"),
        ({"../images": PIXELS}, "holds ../images; needed are"),
        ({"/images": PIXELS}, "holds /images; needed are"),
        ({"a\x1b[2J\n": PIXELS}, r"holds a\x1b[2J\n; needed are"),
        ({f"a{n}": PIXELS for n in range(500)}, "needed are"),
        ({"images": npy_header(array_text("(10000000000, 8, 8)"))}, "but 0 bytes of pixels"),
        ({"images": PIXELS[:-1]}, "but 255 bytes of pixels"),
        ({"images": PIXELS + b"x"}, "but 257 bytes of pixels"),
        ({"images": npy_header(array_text("(1, 100000, 100000)"))}, "above the limit"),
        ({"images": npy_header(array_text("(1, 8, 8)", "()"))}, "not an npy array"),
        ({"images": npy_header(array_text("(1, 8, 8)", "(" * 3000))}, "not an npy array"),
        ({"images": npy_header(b"x", 2, 2**32 - 1)}, "a header of 4294967295 bytes"),
        ({"images": npy(np.full((4, 8, 8), np.nan))}, "float64; images are uint8"),
        ({"images": npy(IMAGES.astype(complex))}, "complex128; images are uint8"),
        ({"images": npy(np.zeros((4, 8, 8), [("r", "u1")]))}, "images are uint8"),
        ({"images": PIXELS, "labels": npy(LABELS + 0.5)}, "labels are integers"),
        ({"images": PIXELS, "labels": npy(np.full(4, np.nan))}, "labels are integers"),
        ({"images": PIXELS, "labels": npy(np.array(["a"] * 4))}, "labels are integers"),
        ({"images": PIXELS, "labels": npy(LABELS - 1)}, "classes count from 0"),
        ({"images": PIXELS, "labels": npy(LABELS + 2**40)}, "classes count from 0"),
        ({"images": PIXELS, "labels": npy(LABELS + 10**8)}, "from 0 to 1048575"),
        ({"images": PIXELS, "labels": NUMBERS[:-3]}, "ends 3 bytes early"),
    ],
    ids=range(24),
)
def test_npz_is_refused(tmp_path, members, said):
    assert said in refusal(npz(tmp_path / "x.npz", **members), tmp_path / "set")


def test_a_bomb_of_a_header_is_not_unpacked(tmp_path):
    """A version 2 header of 3 GB, which NumPy would read whole, in a file of 3 MB."""
    path = tmp_path / "x.npz"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    claimed = 3 * 2**30
    start = npy_header(b"", 2, claimed)
    # One block of zeros, packed once and repeated: a full flush makes each stand alone.
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    name, size = b"images.npy", len(start) + claimed
    packed = first + block * (claimed // 2**24) + packer.flush()
    sizes = struct.pack("<III", 0, len(packed), size)
    common = struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", len(name), 0)
    local = b"PK\x03\x04" + common + name + packed
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common
    entry += struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    path.write_bytes(local + entry + end)
    assert path.stat().st_size < 4 * 2**20
    assert "a header of 3221225472 bytes" in refusal(path, tmp_path / "set")


def test_a_damaged_npz_is_refused_or_packed(tmp_path):
    path = npz(tmp_path / "x.npz", images=PIXELS, labels=NUMBERS)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for number in range(400):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 6)):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            pack(path, tmp_path / f"set{number}")
        except DataError as error:
            assert str(error).isprintable() and len(str(error)) < LONGEST_LINE
            assert not (tmp_path / f"set{number}").exists()


# ---- IDX


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (b"", None, "ends 4 bytes early"),
        (idx(8, 4, 8, 8), None, "ends 256 bytes early"),
        (idx(8, 2**32 - 1, 8, 8), None, "bytes early"),
        (idx(8, 1, 2**32 - 1, 2**32 - 1), None, "above the limit"),
        (idx(8, 1, 2**32 - 1, 2**32 - 1, 3), None, "above the limit"),
        (idx(8, 0, 8, 8), None, "of shape [0, 8, 8]"),
        (idx(13, 4, 8, 8, values=bytes(1024)), None, "not an IDX file of unsigned bytes"),
        (idx(8, *[1] * 200), None, "not an IDX file"),
        (CODE + bytes(300), None, "not an IDX file"),
        (idx(8, 4, 8, 8, values=IMAGES.tobytes()), idx(8, 2**32 - 1), "4 images need [4]"),
        (idx(8, 4, 8, 8, values=IMAGES.tobytes()), idx(8, 4), "ends 4 bytes early"),
        (idx(8, 4, 8, 8, values=IMAGES.tobytes()), idx(8, 4, 1, values=bytes(4)), "need [4]"),
    ],
    ids=range(12),
)
def test_idx_is_refused(tmp_path, images, labels, said, ending):
    folder = tmp_path / "idx"
    folder.mkdir()
    packed = gzip.compress if ending else bytes
    (folder / f"train-images-idx3-ubyte{ending}").write_bytes(packed(images))
    if labels is not None:
        (folder / f"train-labels-idx1-ubyte{ending}").write_bytes(packed(labels))
    assert said in refusal(folder, tmp_path / "set")


def test_bombs_of_gzip_are_never_unpacked_whole(tmp_path):
    """1 GiB of zeros as images in one file, or as labels of claimed images in another."""
    bomb = gzip.compress(bytes(2**20), 9) * 1024
    images, labels = (tmp_path / name for name in ("images", "labels"))
    for folder in (images, labels):
        folder.mkdir()
    first = gzip.compress(idx(8, 1, 2**13, 2**13))
    (images / "train-images-idx3-ubyte.gz").write_bytes(first + bomb)
    first = gzip.compress(idx(8, 2**30, 1, 1))
    (labels / "train-images-idx3-ubyte.gz").write_bytes(first)
    (labels / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(8, 2**30)) + bomb)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1200 * 2**20,) * 2)

    for folder, status, said in (
        (images, 0, "1 train images of 8192 x 8192 pixels"),
        (labels, 2, "1073741824 labels; up to 134217728 are read"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "data", "pack", str(folder), "--out", str(tmp_path / "set")],
            env=environment(),
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == status, done.stderr
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


# ---- folders of images


def test_every_hostile_image_in_a_folder_is_left_out_and_named(tmp_path):
    """As files of a folder: what a shard's reader refuses is refused here too."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(encode(IMAGES[0]))
    bad = set()
    for number, hostile in enumerate(hostile_images()):
        with tarfile.open(fileobj=io.BytesIO(hostile.content)) as tar:
            for member in tar:
                path = folder / f"{number}{Path(member.name).suffix}"
                if hostile.bad and member.name.startswith("k.") and path.suffix != ".npy":
                    path.write_bytes(tar.extractfile(member).read())
                    bad.add(str(path))
    result = pack(folder, tmp_path / "set", size=8, on_bad="skip", max_bad_share=1)
    named = {item.origin: item.reason for item in result.left_out}
    read_here = {origin for origin in bad if origin not in named}
    assert len(named) >= 20
    assert set(named) <= bad
    # A folder may hold GIF, BMP and TIFF files, a shard may not.
    formats = {Path(origin).read_bytes()[:2] for origin in read_here}
    assert formats <= {b"GI", b"BM", b"II"}
    for reason in named.values():
        assert reason.isprintable() and len(reason) < LONGEST_LINE


def test_what_is_no_plain_file_is_left_out_and_named(tmp_path):
    folder = tmp_path / "photos"
    (folder / "within").mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        (folder / "within" / f"{number}.png").write_bytes(encode(image))
    os.mkfifo(folder / "within" / "pipe.png")
    (folder / "within" / "device.png").symlink_to("/dev/zero")
    (folder / "within" / "nowhere.png").symlink_to(tmp_path / "none")
    (folder / "within" / "loop.png").symlink_to("loop.png")
    (folder / "within" / "name\x1b[2J\n.png").write_bytes(b"no image")
    (folder / "within" / os.fsdecode(b"name\xff.png")).write_bytes(b"no image")
    result = pack(folder, tmp_path / "set", on_bad="skip", max_bad_share=1)
    assert result.info.counts == {"train": 4}
    named = {Path(item.origin).name: item.reason for item in result.left_out}
    assert named.pop("pipe.png") == named.pop("device.png") == "is no file"
    assert named.pop("nowhere.png").startswith("cannot be read")
    assert named.pop("loop.png").startswith("cannot be read")
    assert sorted(named) == [r"name\udcff.png", r"name\x1b[2J\n.png"]


def test_a_link_to_a_folder_that_holds_it_is_refused(tmp_path):
    folder = tmp_path / "photos"
    within = folder / "a\x1b[2J"
    within.mkdir(parents=True)
    (within / "1.png").write_bytes(encode(IMAGES[0]))
    (within / "again").symlink_to(folder)
    assert r"a\x1b[2J/again: a link to a folder that holds it" in refusal(folder, tmp_path / "set")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", os.fsdecode(b"a\xff")], ids=range(3))
def test_a_class_that_cannot_be_printed_is_refused(tmp_path, name):
    folder = tmp_path / "photos" / name
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(encode(IMAGES[0]))
    assert "cannot be printed; rename it" in refusal(tmp_path / "photos", tmp_path / "set")
