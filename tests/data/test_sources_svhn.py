"""SVHN's .mat files, written by SciPy as MATLAB writes them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from data.errors import DataError
from data.pack import pack
from tests.data.packed import unpack
from tests.data.tars import random_images

IMAGES = random_images(5, 32, 32, 3)
LABELS = np.array([[10], [1], [9], [10], [2]])


def save(path: Path, images: np.ndarray, labels: np.ndarray, compress: bool = True) -> Path:
    path.parent.mkdir(exist_ok=True)
    arrays = {"X": images.transpose(1, 2, 3, 0), "y": labels, "note": "of no interest"}
    scipy.io.savemat(path, arrays, do_compression=compress)
    return path


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_svhn(tmp_path, compress, kind):
    folder = tmp_path / "svhn"
    save(folder / "train_32x32.mat", IMAGES, LABELS.astype(kind), compress)
    save(folder / "test_32x32.mat", IMAGES[:2], LABELS[:2].astype(kind), compress)
    save(folder / "extra_32x32.mat", IMAGES[::-1], LABELS[::-1].astype(kind), compress)
    info = pack(folder, tmp_path / "set").info
    assert info.counts == {"train": 5, "test": 2, "extra": 5}
    assert info.classes == [*"0123456789"]
    images, labels = unpack(tmp_path / "set")
    np.testing.assert_array_equal(images, IMAGES.transpose(0, 3, 1, 2))
    assert labels == [0, 1, 9, 0, 2]
    images, labels = unpack(tmp_path / "set", "extra")
    np.testing.assert_array_equal(images, IMAGES[::-1].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES, LABELS[:4], "y has 4 labels; X has 5 images"),
        (IMAGES, LABELS + 1, r"y\[0\] is 11; labels are 1 to 10"),
        (IMAGES, LABELS * 0.5, r"y\[1\] is 0.5; labels are 1 to 10"),
        (IMAGES * 1.0, LABELS, r"X is float64 \[32, 32, 3, 5\]; SVHN's is uint8"),
        (IMAGES[:, :9], LABELS, r"X is uint8 \[9, 32, 3, 5\]"),
        (IMAGES, LABELS + np.zeros(2), r"y is .* \[5, 2\]"),
    ],
)
def test_arrays_that_are_not_svhns_are_refused(tmp_path, images, labels, said):
    save(tmp_path / "svhn" / "train_32x32.mat", images, labels)
    with pytest.raises(DataError, match=said):
        pack(tmp_path / "svhn", tmp_path / "set")


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    content += bytes(-len(content) % 8)
    return struct.pack("<II", kind, len(content) if size is None else size) + content


def claims(count: int, size: int, *, packed: bool) -> bytes:
    """An `X` that claims `count` images and `size` bytes, and has none."""
    inside = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack("<4i", 32, 32, 3, count))
    inside += element(1, b"X", 1) + struct.pack("<II", 2, size)
    matrix = element(14, inside, size + len(inside))
    return struct.pack("<II", 15, len(z := zlib.compress(matrix))) + z if packed else matrix


HEADER = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no .mat file of version 5"),
        (HEADER, "has no array X"),
        (b"MATLAB 7.3".ljust(124) + b"\x00\x02IM", "version 0x0200, not 0x0100; save it with -v7"),
        (HEADER + claims(10**6, 3072 * 10**6, packed=False), "an element that goes on to"),
        (HEADER + claims(10**6, 100, packed=True), "100 bytes of uint8 for an array of shape"),
        (HEADER + claims(-5, 100, packed=True), "for an array of shape"),
        (HEADER + claims(10**6, 3072 * 10**6, packed=True), "has no array y"),
        (HEADER + struct.pack("<II", 15, 8) + b"garbage!", "damaged: Error -3"),
        (HEADER + b"\x0e\x00\x00", "ends 5 bytes early"),
        (HEADER + element(14, element(6, b"")), "array flags of 0 bytes"),
        (HEADER + element(14, element(6, bytes(64))), "array flags of type 6 and 64 bytes"),
    ],
)
def test_hostile_mat_files_are_one_line(tmp_path, content, said):
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(content)
    with pytest.raises(DataError) as error:
        pack(tmp_path / "svhn", tmp_path / "set")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_array_that_ends_early_is_refused(tmp_path):
    path = save(tmp_path / "svhn" / "train_32x32.mat", IMAGES, LABELS)
    content = path.read_bytes()
    path.write_bytes(HEADER + claims(5, 3072 * 5, packed=True) + content[_end_of_first(content) :])
    with pytest.raises(DataError, match=r"X cannot be read: it ends 15360 bytes early"):
        pack(tmp_path / "svhn", tmp_path / "set")


def _end_of_first(content: bytes) -> int:
    return 128 + 8 + struct.unpack("<I", content[132:136])[0]
