"""Packing: every kind of source gives its images, the same bytes each time, whole or not at all."""

import gzip
import resource
import shutil
import signal
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset import read_dataset_info
from data.errors import DataError
from data.pack import pack
from data.shards import iter_samples
from tests.data.packed import contents, start_pack, unpack
from tests.data.tars import random_images

LABELS = np.array([2, 0, 1, 1, 0, 2, 2])
GREY = random_images(7, 10, 12)


def nothing_is_left(folder: Path) -> bool:
    """Neither a set nor a hidden folder of one."""
    return not folder.exists() and not list(folder.parent.glob(f".{folder.name}*"))


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def digits(tmp_path):
    return npz(
        tmp_path / "digits.npz", x_train=GREY, y_train=LABELS, x_test=GREY[:2], y_test=LABELS[:2]
    )


# ---- sources


def test_npz_with_both_splits(digits, tmp_path):
    result = pack(digits, tmp_path / "set", shard_size=3)
    images, labels = unpack(result.folder)
    np.testing.assert_array_equal(images, GREY[:, None])
    assert labels == LABELS.tolist()
    np.testing.assert_array_equal(unpack(result.folder, "test")[0], GREY[:2, None])
    info = result.info
    assert info.shards["train"] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert info.counts == {"train": 7, "test": 2}
    assert info.classes == ["0", "1", "2"]
    assert info.image_shape == (1, 10, 12)
    assert info.labeled
    assert info == read_dataset_info(result.folder)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_npz_of_unlabeled_colour_images(tmp_path, layout):
    images = random_images(5, 9, 8, 3)
    stored = images if layout == "NHWC" else images.transpose(0, 3, 1, 2)
    folder = pack(npz(tmp_path / "x.npz", images=stored), tmp_path / "set").folder
    pixels, labels = unpack(folder)
    np.testing.assert_array_equal(pixels, images.transpose(0, 3, 1, 2))
    assert labels == [None] * 5
    info = read_dataset_info(folder)
    assert (info.classes, info.labeled) == (None, False)


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_folder(tmp_path, ending):
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = LABELS.astype(np.uint8)
    write_idx(folder / f"train-images-idx3-ubyte{ending}", GREY)
    write_idx(folder / f"train-labels-idx1-ubyte{ending}", labels)
    write_idx(folder / f"t10k-images-idx3-ubyte{ending}", GREY[3:])
    (folder / "about.json").write_text('{"name": "tools", "classes": ["axe", "bow", "cup"]}')
    info = pack(folder, tmp_path / "set").info
    images, found = unpack(tmp_path / "set")
    np.testing.assert_array_equal(images, GREY[:, None])
    assert found == labels.tolist()
    assert (info.name, info.classes, info.labeled) == ("tools", ["axe", "bow", "cup"], False)


def write_image(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def shades(count: int, *shape: int) -> np.ndarray:
    """Flat images, each of its own shade, that survive JPEG and scaling."""
    return np.stack([np.full(shape, 10 * n, np.uint8) for n in range(count)])


def test_folder_with_a_subfolder_per_class(tmp_path):
    for split, count in (("train", 20), ("test", 5)):
        for label, name in enumerate(("cat", "dog")):
            for n, pixels in enumerate(shades(count, 8, 8)):
                write_image(tmp_path / "pets" / split / name / f"{n}.png", pixels + label)
    (tmp_path / "pets" / "train" / "notes.txt").write_text("passed over")
    (tmp_path / "pets" / "train" / "cat" / "._1.png").write_text("passed over")
    info = pack(tmp_path / "pets", tmp_path / "set", shard_size=10).info
    assert info.counts == {"train": 40, "test": 10}
    assert info.classes == ["cat", "dog"]
    images, labels = unpack(tmp_path / "set")
    assert [int(image[0, 0, 0]) % 10 for image in images] == labels
    first_shard = list(iter_samples(tmp_path / "set" / "train-000000.tar"))
    assert {sample.label for sample in first_shard} == {0, 1}  # classes are mixed


def test_flat_folder_of_photographs_of_any_kind(tmp_path):
    folder = tmp_path / "photos"
    for n, pixels in enumerate(shades(9, 90, 120)):
        write_image(folder / f"{n}.jpg", pixels[: 60 + 3 * n], quality=95)
    write_image(folder / "colour.webp", np.full((70, 50, 3), (90, 0, 0), np.uint8), lossless=True)
    write_image(folder / "small.bmp", np.full((9, 7), 100, np.uint8))
    with pytest.raises(DataError, match="--size N makes all N x N"):
        pack(folder, tmp_path / "set")
    assert nothing_is_left(tmp_path / "set")
    info = pack(folder, tmp_path / "set", size=16).info
    images, labels = unpack(tmp_path / "set")
    assert info.image_shape == (3, 16, 16)
    assert sorted(int(i[0].mean().round()) for i in images) == sorted([*range(0, 90, 10), 90, 100])
    assert labels == [None] * 11


def test_kept_files_are_the_same_bytes(tmp_path):
    folder = tmp_path / "photos"
    for n, pixels in enumerate(random_images(4, 16, 16, 3)):
        write_image(folder / "a" / f"{n}.jpg", pixels)
    pack(folder, tmp_path / "set", encode="keep")
    samples = list(iter_samples(tmp_path / "set" / "train-000000.tar"))
    kept = {path.read_bytes() for path in (folder / "a").iterdir()}
    assert {s.image for s in samples} == kept
    assert {(s.suffix, s.label) for s in samples} == {("jpg", 0)}
    write_image(folder / "a" / "grey.png", GREY[0].repeat(2, 0)[:16].repeat(2, 1)[:, :16])
    with pytest.raises(DataError, match="grey among colour images; give --encode png"):
        pack(folder, tmp_path / "other", encode="keep")


def test_images_that_do_not_decode_stop_or_are_left_out(tmp_path):
    folder = tmp_path / "photos"
    for n, pixels in enumerate(random_images(8, 16, 16)):
        write_image(folder / f"{n}.png", pixels)
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:70])
    (folder / "text.jpg").write_text("not an image")
    with pytest.raises(DataError, match=r"text.jpg: does not decode.*--on-bad skip"):
        pack(folder, tmp_path / "set")
    with pytest.raises(
        DataError, match=r"2 of 10 images do not decode, more than the share of 0\.1"
    ):
        pack(folder, tmp_path / "set", on_bad="skip", max_bad_share=0.1)
    assert nothing_is_left(tmp_path / "set")
    result = pack(folder, tmp_path / "set", on_bad="skip", max_bad_share=0.2)
    assert {Path(item.origin).name for item in result.left_out} == {"cut.png", "text.jpg"}
    assert len(unpack(tmp_path / "set")[0]) == 8


# ---- mistakes


def labels_of(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int64)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": GREY}, "holds pictures; needed are x_train"),
        ({"images": GREY / 255}, "images is float64; images are uint8"),
        ({"images": GREY[0]}, "shape [10, 12]"),
        ({"images": np.zeros((5, 8, 9, 8), np.uint8)}, "shape [8, 9, 8], of which it cannot be"),
        ({"images": GREY[:0]}, "shape [0, 10, 12]"),
        ({"images": np.asfortranarray(GREY)}, "Fortran order"),
        ({"images": np.array([{}, {}])}, "Python objects"),
        ({"images": GREY, "labels": labels_of(6)}, "shape [6]; 7 images need [7]"),
        ({"images": GREY, "labels": labels_of(7, 3)}, "shape [7, 3]"),
        ({"images": GREY, "labels": np.zeros(7)}, "labels is float64; labels are integers"),
        ({"images": GREY, "labels": labels_of(7) - 1}, "holds -1 to -1; classes count from 0"),
        ({"x_train": GREY, "x_test": GREY[:, :8]}, "--size N makes all N x N"),
    ],
)
def test_npz_mistakes_are_one_line(tmp_path, arrays, said):
    with pytest.raises(DataError) as error:
        pack(npz(tmp_path / "x.npz", **arrays), tmp_path / "set")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert nothing_is_left(tmp_path / "set")


def test_damaged_files_are_named(tmp_path, digits):
    digits.write_bytes(digits.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"digits.npz: cannot be read as .npz"):
        pack(digits, tmp_path / "set")
    folder = tmp_path / "idx"
    folder.mkdir()
    images = folder / "train-images-idx3-ubyte"
    write_idx(images, GREY)
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(DataError, match="ends 5 bytes early"):
        pack(folder, tmp_path / "set")
    packed = folder / "train-images-idx3-ubyte.gz"
    write_idx(packed, GREY)
    packed.write_bytes(packed.read_bytes()[:-20])
    images.unlink()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: cannot be read"):
        pack(folder, tmp_path / "set")
    write_idx(packed, GREY)
    write_idx(folder / "train-labels-idx1-ubyte", LABELS[:3].astype(np.uint8))
    with pytest.raises(DataError, match=r"of shape \[3\]; 7 images need \[7\]"):
        pack(folder, tmp_path / "set")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no images found"),
        (["a.png", "cat/b.png"], "a.png lies beside class folders such as cat/"),
        (["train/a/1.png", "test/a/1.png", "old/a/1.png"], "beside train/ and test/ there is old"),
        (["train/a/1.png", "test/b/1.png"], "train/ has no such class"),
        (["train/a/1.png", "1.png"], "images lie beside train/"),
    ],
)
def test_folders_of_no_known_layout_are_errors(tmp_path, names, said):
    (tmp_path / "x").mkdir()
    for name in names:
        write_image(tmp_path / "x" / name, GREY[0])
    with pytest.raises(DataError) as error:
        pack(tmp_path / "x", tmp_path / "set")
    assert said in str(error.value)


def test_a_word_that_is_no_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file or folder; give fashion-mnist-mini"):
        pack("fashion", tmp_path / "set")


# ---- the same bytes, whole or not at all


def test_two_packs_are_identical(tmp_path, digits):
    first = pack(digits, tmp_path / "a" / "set", shard_size=4)
    time.sleep(1.1)  # a tar keeps times in whole seconds
    (tmp_path / "copy").mkdir()
    again = pack(shutil.copy(digits, tmp_path / "copy"), tmp_path / "b" / "set", shard_size=4)
    assert contents(first.folder) == contents(again.folder)
    other_shards = pack(digits, tmp_path / "c", shard_size=2).info
    assert other_shards.fingerprint == first.info.fingerprint
    changed = GREY.copy()
    changed[3, 0, 0] ^= 1
    npz(digits, x_train=changed, y_train=LABELS, x_test=GREY[:2], y_test=LABELS[:2])
    assert pack(digits, tmp_path / "d").info.fingerprint != first.info.fingerprint


def test_packing_again_reuses_what_is_there(tmp_path, digits):
    out = tmp_path / "set"
    pack(digits, out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / ".underlayer").mkdir()  # where the resident store keeps decoded images
    assert pack(digits, out).reused
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with pytest.raises(DataError, match=r"holds another set or packing .*--overwrite"):
        pack(digits, out, shard_size=2)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not pack(digits, out, shard_size=2, overwrite=True).reused
    assert len(unpack(out)[0]) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.npz", "set"]
    shard = out / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DataError, match="damaged copy"):
        pack(digits, out, shard_size=2)


def test_other_files_are_never_overwritten(tmp_path, digits):
    out = tmp_path / "home"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"holds letter.txt, which is no part of a set"):
            pack(digits, out, overwrite=overwrite)
    assert contents(out) == {"letter.txt": b"dear"}
    with pytest.raises(DataError, match="a file, not a folder"):
        pack(digits, out / "letter.txt", overwrite=True)
    with pytest.raises(DataError, match="cannot be made"):
        pack(digits, out / "letter.txt" / "set")
    (tmp_path / "empty").mkdir()
    assert not pack(digits, tmp_path / "empty").reused


def test_a_killed_pack_leaves_nothing_that_looks_whole(tmp_path):
    source = npz(tmp_path / "x.npz", images=random_images(4000, 28, 28))
    out = tmp_path / "set"
    process = start_pack(source, "--out", out, "--shard-size", 50)
    while process.poll() is None and len(list(tmp_path.glob(".set.packing/*.tar"))) < 3:
        time.sleep(0.005)
    with pytest.raises(DataError, match="another process is writing into it"):
        pack(source, out, shard_size=50)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert not out.exists()
    pack(source, out, shard_size=4000)
    assert len(unpack(out)[0]) == 4000
    assert sorted(contents(out)) == ["dataset.json", "train-000000.tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "x.npz"]


def test_no_space_left_is_one_line_and_leaves_nothing(tmp_path):
    source = npz(tmp_path / "x.npz", images=random_images(200, 28, 28))
    out = tmp_path / "set"

    def allow_small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start_pack(source, "--out", out, preexec_fn=allow_small_files_only)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith(f"error: no space left for {out}")
    assert errors.count("\n") == 1
    assert nothing_is_left(out)


def test_the_set_is_never_held_in_memory(tmp_path):
    images = np.zeros((60, 1024, 1024, 1), np.uint8)  # 60 MiB
    images[:, ::64] = 1
    source = npz(tmp_path / "x.npz", images=images)
    tracemalloc.start()
    try:
        pack(source, tmp_path / "set")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * 2**20
