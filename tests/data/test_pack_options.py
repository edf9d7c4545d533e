"""How a set is written: encoding, shards' size, test split, workers, and after a kill."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.pack import pack
from data.verify import verify
from tests.data.packed import contents, start_pack, unpack
from tests.data.tars import random_images

LUMA = (0.299, 0.587, 0.114)
COLOUR = random_images(40, 24, 20, 3)


def npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path, images=images, labels=np.arange(len(images)) % 3)
    return path


# ---- encoding


@pytest.mark.parametrize(("form", "suffix"), [("jpeg", "jpg"), ("webp", "webp")])
def test_lossy_images_are_smaller_and_the_set_verifies(tmp_path, form, suffix):
    source = npz(tmp_path / "x.npz", random_images(8, 96, 96, 3))
    sizes = []
    for quality in (95, 20):
        out = tmp_path / f"{form}-{quality}"
        info = pack(source, out, encode=form, quality=quality).info
        assert verify([str(out)]).good
        assert info.shard_bytes == {"train": (out / "train-000000.tar").stat().st_size}
        sizes.append(info.shard_bytes["train"])
        assert unpack(out)[1] == [0, 1, 2, 0, 1, 2, 0, 1]
        assert b"train-0000000." + suffix.encode() in (out / "train-000000.tar").read_bytes()
    assert sizes[0] > sizes[1]
    stored = unpack(tmp_path / f"{form}-95")[0].transpose(0, 2, 3, 1)
    assert np.abs((stored - random_images(8, 96, 96, 3).astype(float)) @ LUMA).mean() < 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encode": "png", "quality": 80}, "quality: png has none"),
        ({"encode": "jpeg", "quality": 0}, "quality: 0; give one from 1 to 100"),
        ({"encode": "tiff"}, "encode: tiff; one of png, keep, jpeg, webp"),
        (
            {"shard_size": "3 apples"},
            "shard size: 3 apples; give a number of samples from 1, or of",
        ),
        ({"test_share": 1.0}, "test share: 1; give a share between 0 and 1"),
        ({"test_share": 1e-9}, "leaves 40 training and 0 test images"),
        ({"workers": 2, "encode": "keep"}, "workers: keep encodes nothing"),
        ({"workers": 0}, "workers: 0; give a number of processes from 1"),
    ],
)
def test_options_that_cannot_be_are_errors(tmp_path, options, said):
    with pytest.raises(DataError) as error:
        pack(npz(tmp_path / "x.npz", COLOUR), tmp_path / "set", **options)
    assert said in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_webp_is_refused_for_grey_images(tmp_path):
    with pytest.raises(DataError, match="WebP has no grey images"):
        pack(npz(tmp_path / "x.npz", COLOUR[..., 0]), tmp_path / "set", encode="webp")


def test_mean_and_std_are_those_of_the_training_pixels(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=COLOUR, x_test=COLOUR[:3] // 2)
    info = pack(tmp_path / "x.npz", tmp_path / "set").info
    pixels = COLOUR / 255
    np.testing.assert_allclose(info.mean, pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(info.std, pixels.std(axis=(0, 1, 2)), atol=1e-6)


# ---- shards' size


def test_shards_of_so_many_bytes(tmp_path):
    source = npz(tmp_path / "x.npz", COLOUR)
    info = pack(source, tmp_path / "set", shard_size="30KiB").info
    sizes = [(tmp_path / "set" / name).stat().st_size for name in info.shards["train"]]
    assert len(sizes) > 2
    assert max(sizes) <= 30 * 1024
    assert min(sizes[:-1]) == max(sizes)
    by_count = pack(source, tmp_path / "other", shard_size=7).info
    assert info.fingerprint == by_count.fingerprint
    assert verify([str(tmp_path / "set")]).good
    tiny = pack(source, tmp_path / "tiny", shard_size="1KB").info
    assert len(tiny.shards["train"]) == 40  # an image above the size has a shard of its own


# ---- a test split by hash


def names_per_split(folder: Path, photos: Path) -> dict[str, set[str]]:
    """Which files of `photos` are in which split of a set."""
    name = {np.asarray(Image.open(path)).tobytes(): path.name for path in photos.iterdir()}
    return {
        split: {name[image[0].tobytes()] for image in unpack(folder, split)[0]}
        for split in ("train", "test")
    }


def test_an_image_stays_in_its_split_when_others_are_added(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), np.uint8)
    for number, pixels in enumerate(images[:80]):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    info = pack(photos, tmp_path / "few", test_share=0.25, shard_size=16).info
    assert verify([str(tmp_path / "few")]).good
    assert sum(info.counts.values()) == 80
    assert 8 <= info.counts["test"] <= 32
    few = names_per_split(tmp_path / "few", photos)
    for number, pixels in enumerate(images[80:], start=80):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    pack(photos, tmp_path / "more", test_share=0.25)
    more = names_per_split(tmp_path / "more", photos)
    assert few["train"] < more["train"]
    assert few["test"] < more["test"]
    pack(photos, tmp_path / "larger", test_share=0.5)
    assert more["test"] < names_per_split(tmp_path / "larger", photos)["test"]


def test_a_divided_source_is_not_divided_again(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=COLOUR, x_test=COLOUR)
    with pytest.raises(DataError, match=r"x.npz is divided already, into train, test"):
        pack(tmp_path / "x.npz", tmp_path / "set", test_share=0.1)


# ---- workers, and what a kill leaves


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_workers_write_the_same_bytes(tmp_path, form):
    source = npz(tmp_path / "x.npz", random_images(200, 24, 20, 3))
    options = {"encode": form, "shard_size": 30, "test_share": 0.2}
    pack(source, tmp_path / "one", **options)
    pack(source, tmp_path / "two", **options, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_a_killed_pack_goes_on_where_it_was(tmp_path, form):
    source = npz(tmp_path / "x.npz", random_images(3000, 28, 28))
    out, hidden = tmp_path / "set", tmp_path / ".set.packing"
    process = start_pack(
        source, "--out", out, "--shard-size", 50, "--encode", form, "--test-share", 0.2
    )
    while process.poll() is None and len(list(hidden.glob("*.tar"))) < 8:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    first = hidden / "train-000000.tar"
    written = first.stat().st_mtime_ns
    options = {"shard_size": 50, "encode": form, "test_share": 0.2}
    pack(source, out, **options)
    assert (out / first.name).stat().st_mtime_ns == written
    pack(source, tmp_path / "whole", **options)
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole", "x.npz"]


def test_damaged_shards_of_a_killed_pack_are_written_anew(tmp_path):
    source = npz(tmp_path / "x.npz", random_images(3000, 28, 28))
    hidden = tmp_path / ".set.packing"
    process = start_pack(source, "--out", tmp_path / "set", "--shard-size", 50)
    while process.poll() is None and len(list(hidden.glob("*.tar"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    damaged = bytearray((hidden / "train-000001.tar").read_bytes())
    damaged[3000] ^= 255
    (hidden / "train-000001.tar").write_bytes(damaged)
    (hidden / ".dataset.json.77").write_text("{")
    pack(source, tmp_path / "set", shard_size=50)
    pack(source, tmp_path / "whole", shard_size=50)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
