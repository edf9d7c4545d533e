"""CIFAR and STL-10 as their authors give them; pickles are read without unpickling."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.pack import pack
from tests.data.packed import unpack
from tests.data.tars import random_images

IMAGES = random_images(6, 3, 32, 32)
LABELS = [3, 0, 9, 3, 1, 9]
NAMES = [f"thing {number}" for number in range(10)]


def refused(source: Path) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(DataError) as error:
        pack(source, source.parent / "refused")
    assert "\n" not in str(error.value)
    assert not (source.parent / "refused").exists()
    return str(error.value)


# ---- pickles as Python 2 wrote them


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode("latin-1")


def integer(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def array(values: np.ndarray, kind: str = "u1", shape: tuple[int, ...] | None = None) -> bytes:
    rows, columns = shape or values.shape
    return b"".join(
        [
            b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\t",
            text("b") + b"\x87q\nRq\x0b(K\x01" + integer(rows) + integer(columns) + b"\x86q\x0c",
            b"cnumpy\ndtype\nq\r" + text(kind) + b"K\x00K\x01\x87q\x0eRq\x0f(K\x03" + text("|"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", values.nbytes) + values.tobytes() + b"tb",
        ]
    )


def dump(path: Path, **values: bytes) -> None:
    items = b"".join(text(key) + value for key, value in values.items())
    path.write_bytes(b"\x80\x02}q\x01(" + items + b"u.")


def batch(path: Path, images: np.ndarray, labels: list[int], key: str = "labels") -> None:
    dump(
        path,
        batch_label=text("training batch 1 of 5"),
        **{key: b"](" + b"".join(integer(label) for label in labels) + b"e"},
        data=array(images.reshape(len(images), -1)),
        filenames=b"](" + b"".join(text(f"{n}.png") for n in range(len(images))) + b"e",
    )


@pytest.fixture
def pickles(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch(folder / "data_batch_1", IMAGES[:4], LABELS[:4])
    batch(folder / "data_batch_2", IMAGES[4:], LABELS[4:])
    batch(folder / "test_batch", IMAGES[::2], LABELS[::2])
    names = b"](" + b"".join(map(text, NAMES)) + b"e"
    dump(folder / "batches.meta", num_cases_per_batch=integer(10_000), label_names=names)
    return folder


def test_the_pickles_here_are_what_numpy_reads(pickles):
    loaded = pickle.loads((pickles / "data_batch_1").read_bytes(), encoding="latin1")
    np.testing.assert_array_equal(loaded["data"], IMAGES[:4].reshape(4, -1))
    assert loaded["labels"] == LABELS[:4]


def test_cifar10_pickles(pickles, tmp_path):
    info = pack(pickles, tmp_path / "set").info
    images, labels = unpack(tmp_path / "set")
    np.testing.assert_array_equal(images, IMAGES)
    assert labels == LABELS
    images, labels = unpack(tmp_path / "set", "test")
    np.testing.assert_array_equal(images, IMAGES[::2])
    assert labels == LABELS[::2]
    assert info.classes == NAMES


def test_cifar100_pickles_have_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    labels = [99, 5, 5, 70, 0, 1]
    batch(folder / "train", IMAGES, labels, "fine_labels")
    dump(folder / "meta", fine_label_names=b"](" + text("x") * 100 + b"e")
    assert pack(folder, tmp_path / "set").info.classes == ["x"] * 100
    assert unpack(tmp_path / "set")[1] == labels


class _RunsCode:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            pickle.dumps({"data": _RunsCode()}, protocol=2),
            r"offset \d+: the pickle's opcode GLOBAL",
        ),
        (pickle.dumps({"data": 1}, protocol=4), "opcode PROTO is refused: pickle protocol 4"),
        (pickle.dumps({"data": 1.5}, protocol=2), "opcode BINFLOAT is refused"),
        (pickle.dumps({"data": 2**40}, protocol=2), "opcode LONG1 is refused"),
        (b"cposix\nsystem\n(S'touch pwned'\ntR.", "opcode GLOBAL is refused: it names 'posix sys"),
        (b"\x80\x02}q\x01(U\x04data", "no whole pickle"),
        (b"\x80\x02]q\x01h\x01a.", "holds no dict"),
        (b"\x80\x02}.rest", "data after the end"),
        (b"\x80\x02}h\x05u.", "opcode BINGET is refused: nothing was put at 5"),
        (b"\x80\x02u.", "opcode SETITEMS is refused: there is no mark"),
        (b"\x80\x02}(K\x01K\x02u.", "opcode SETITEMS is refused: its keys are no texts"),
        (b"\x80\x02}U\x04dataT\xff\xff\xff\x7fxs.", "no whole pickle"),
        (b"\x80\x02}.", "has no array 'data', but nothing"),
        (b"", "0 bytes"),
        (b"\x80\x02" + b"N" * 2**21, "more than 2097152 opcodes"),
    ],
)
def test_other_pickles_are_refused_and_run_nothing(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar" / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        pack(tmp_path / "cifar", tmp_path / "set")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (array(IMAGES.reshape(6, -1), kind="i8"), "opcode REDUCE is refused"),
        (array(IMAGES.reshape(6, -1), kind="O"), "opcode REDUCE is refused"),
        (array(IMAGES.reshape(6, -1), shape=(2**30, 2**30)), "opcode BUILD is refused: an array"),
        (array(IMAGES[:, 0].reshape(6, -1)), r"data has shape \[6, 1024\]; 6 labels need \[6, 3"),
        (text("pixels"), "has no array 'data'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, data, said):
    (tmp_path / "cifar").mkdir()
    labels = b"](" + b"".join(integer(label) for label in LABELS) + b"e"
    dump(tmp_path / "cifar" / "data_batch_1", labels=labels, data=data)
    with pytest.raises(DataError, match=said):
        pack(tmp_path / "cifar", tmp_path / "set")


# ---- binary files


def records(images: np.ndarray, *labels: list[int]) -> bytes:
    columns = np.array(labels, np.uint8).T
    return np.concatenate([columns, images.reshape(len(images), -1)], axis=1).tobytes()


def test_cifar10_binary(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(records(IMAGES[:2], LABELS[:2]))
    (folder / "data_batch_2.bin").write_bytes(records(IMAGES[2:], LABELS[2:]))
    (folder / "test_batch.bin").write_bytes(records(IMAGES[:1], [7]))
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    info = pack(folder, tmp_path / "set").info
    images, labels = unpack(tmp_path / "set")
    np.testing.assert_array_equal(images, IMAGES)
    assert labels == LABELS
    assert (info.classes, info.counts) == (NAMES, {"train": 6, "test": 1})
    (folder / "data_batch_1.bin").rename(folder / "data_batch_3.bin")
    (folder / "data_batch_2.bin").rename(folder / "data_batch_1.bin")
    assert "data_batch_2.bin: no such file, but data_batch_3.bin is there" in refused(folder)
    (folder / "data_batch_3.bin").unlink()
    (folder / "test_batch.bin").write_bytes(records(IMAGES[:1], [10]))
    assert "test_batch.bin image 0: label 10; those of CIFAR-10 are 0 to 9" in refused(folder)
    (folder / "test_batch.bin").write_bytes(records(IMAGES[:1], [1])[:-1])
    assert "3072 bytes are no multiple of 3073, an image of CIFAR-10" in refused(folder)


def test_cifar100_binary_has_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(records(IMAGES, [19] * 6, [99, 5, 5, 70, 0, 1]))
    (folder / "test.bin").write_bytes(records(IMAGES[:2], [3, 3], [2, 98]))
    pack(folder, tmp_path / "set")
    assert unpack(tmp_path / "set")[1] == [99, 5, 5, 70, 0, 1]
    images, labels = unpack(tmp_path / "set", "test")
    np.testing.assert_array_equal(images, IMAGES[:2])
    assert labels == [2, 98]


def test_stl10_has_a_split_without_labels(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = random_images(5, 3, 96, 96)
    by_columns = images.transpose(0, 1, 3, 2)
    for split, part in (
        ("train", by_columns[:2]),
        ("test", by_columns[2:3]),
        ("unlabeled", by_columns),
    ):
        (folder / f"{split}_X.bin").write_bytes(part.tobytes())
    (folder / "train_y.bin").write_bytes(bytes([10, 1]))
    (folder / "test_y.bin").write_bytes(bytes([4]))
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    info = pack(folder, tmp_path / "set").info
    assert info.counts == {"train": 2, "test": 1, "unlabeled": 5}
    assert info.classes == NAMES
    np.testing.assert_array_equal(unpack(tmp_path / "set")[0], images[:2])
    assert unpack(tmp_path / "set")[1] == [9, 0]
    pixels, labels = unpack(tmp_path / "set", "unlabeled")
    np.testing.assert_array_equal(pixels, images)
    assert labels == [None] * 5
    (folder / "test_y.bin").write_bytes(bytes([0]))
    assert "test_y.bin label 0: 0; those of STL-10 are 1 to 10" in refused(folder)
    (folder / "test_y.bin").write_bytes(bytes([1, 2]))
    assert "2 bytes; 1 images need as many labels" in refused(folder)
    (folder / "test_X.bin").unlink()
    assert "there is no test_X.bin beside it" in refused(folder)
