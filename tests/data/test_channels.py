"""Images of any number of channels and of 16 bits: packed, read by every mode, and looked at."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.__main__ import main
from data.dataset import read_dataset_info
from data.decode import decode_image, npy_shape
from data.errors import DataError
from data.pack import pack
from data.reading import open_images
from data.store import ReadingConfig, open_store
from data.verify import verify
from tests.data.packed import unpack
from tests.data.tars import encode, npy, random_images


def bands(count, channels, height, width, seed=0):
    """Images [N, C, H, W], each different."""
    planes = [random_images(count, height, width, seed=seed + c) for c in range(channels)]
    return np.stack(planes, axis=1)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((9, 9, 5), 5),
        ((5, 9, 9), 5),
        ((13, 8, 8), 13),
        ((8, 8, 200), 200),
        ((9, 12, 4), 4),
        ((4, 9, 12), 4),
        ((9, 12, 3), 3),
        ((3, 3, 1), 1),
        ((1, 1, 3), 3),
        ((2, 9, 9), 2),
    ],
)
def test_the_axis_of_the_channels_is_told_by_the_shape(shape, channels):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = decode_image(npy(array), "npy")
    assert len(image) == channels
    last = shape[2] == channels
    np.testing.assert_array_equal(image, array.transpose(2, 0, 1) if last else array)
    assert npy_shape(npy(array)) == image.shape
    fortran = decode_image(npy(np.asfortranarray(array)), "npy")
    np.testing.assert_array_equal(fortran, image)


@pytest.mark.parametrize("shape", [(5, 5, 5), (40, 32, 200), (9, 5, 12), (20, 30, 20), (5, 9, 5)])
def test_a_shape_that_does_not_tell_is_refused(shape):
    with pytest.raises(DataError, match="which axis holds the channels"):
        decode_image(npy(np.zeros(shape, np.uint8)), "npy")


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path, dtype):
    wide = (bands(6, 5, 8, 8).astype(np.uint16) * 256 + 77).astype(dtype)
    np.testing.assert_array_equal(decode_image(npy(wide[0]), "npy"), bands(6, 5, 8, 8)[0])
    np.savez(tmp_path / "wide.npz", images=wide)
    np.save(tmp_path / "wide.npy", wide)
    for name in ("wide.npz", "wide.npy"):
        pack(tmp_path / name, tmp_path / f"{name}-set")
        np.testing.assert_array_equal(unpack(tmp_path / f"{name}-set")[0], bands(6, 5, 8, 8))


def test_other_types_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8), np.int16))
    with pytest.raises(DataError, match="int16; images are uint8, from 0 to 255, or uint16"):
        pack(tmp_path / "x.npy", tmp_path / "set")


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bands_are_packed_and_read_again_in_every_mode(tmp_path, layout, size):
    images = bands(20, 5, 12, 12)
    stored = images if layout == "NCHW" else images.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "x.npz", x_train=stored, y_train=np.arange(20) % 4)
    result = pack(tmp_path / "x.npz", tmp_path / "set", size=size)
    assert verify([str(tmp_path / "set")]).good
    side = size or 12
    assert result.info.image_shape == (5, side, side)
    assert len(result.info.mean) == len(result.info.std) == 5
    want = images
    if size is not None:
        planes = [Image.fromarray(plane).resize((8, 8), 3) for plane in images.reshape(-1, 12, 12)]
        want = np.stack([np.asarray(plane) for plane in planes]).reshape(20, 5, 8, 8)
    shards = str(tmp_path / "set" / "train-*.tar")
    resident = open_store(shards)
    np.testing.assert_allclose(resident.images.numpy().astype(int), want, atol=2 if size else 0)
    assert resident.labels.tolist() == [n % 4 for n in range(20)]
    for config in (ReadingConfig(), ReadingConfig(channels=5)):
        indexed = open_images(config, shards, "indexed")
        assert indexed.images.shape == (20, 5, side, side)
        assert torch.equal(indexed.images[torch.arange(20)], resident.images)
    assert torch.equal(open_store(shards, size=6).images, open_store(shards, size=6).images)
    assert open_store(shards, size=6).images.shape == (20, 5, 6, 6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bands_become_no_other_number_of_channels(tmp_path, channels):
    np.save(tmp_path / "x.npy", bands(3, 5, 8, 8))
    pack(tmp_path / "x.npy", tmp_path / "set")
    shards = tmp_path / "set" / "train-*.tar"
    with pytest.raises(DataError, match=f"data.channels must be 5 .*, got {channels}"):
        open_store(str(shards), channels=channels)
    (tmp_path / "set" / "dataset.json").unlink()
    with pytest.raises(DataError, match=f"in 5 channels cannot become one of {channels}"):
        open_store(str(shards), channels=channels)


def test_grey_and_colour_become_no_bands():
    for image, kind in ((random_images(1, 8, 8)[0], "grey"), (random_images(1, 8, 8, 3)[0], "col")):
        with pytest.raises(DataError, match=f"an image in {kind}.* cannot become one of 5"):
            decode_image(encode(image), "png", channels=5)


def test_a_folder_of_arrays_is_a_folder_of_images(tmp_path, capsys):
    images = bands(12, 5, 8, 8)
    for number, image in enumerate(images):
        folder = tmp_path / "fields" / ("maize" if number % 2 else "beet")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", image if number % 3 else image.transpose(1, 2, 0))
    assert main(["pack", str(tmp_path / "fields"), "--out", str(tmp_path / "set")]) == 0
    assert "12 train images of 8 x 8 pixels in 5 channels, 2 classes" in capsys.readouterr().out
    stored, labels = unpack(tmp_path / "set")
    found = {image.tobytes(): label for image, label in zip(stored, labels, strict=True)}
    assert found == {image.tobytes(): number % 2 for number, image in enumerate(images)}
    pack(tmp_path / "fields", tmp_path / "kept", encode="keep")
    np.testing.assert_array_equal(unpack(tmp_path / "kept")[0], stored)
    info = read_dataset_info(tmp_path / "kept")
    assert info is not None and info.image_shape == (5, 8, 8)


def test_grey_and_colour_arrays_still_mix_and_bands_do_not(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    np.save(folder / "grey.npy", random_images(1, 8, 8)[0])
    (folder / "colour.png").write_bytes(encode(random_images(1, 8, 8, 3)[0]))
    pack(folder, tmp_path / "set")
    assert unpack(tmp_path / "set")[0].shape == (2, 3, 8, 8)
    np.save(folder / "bands.npy", bands(1, 5, 8, 8)[0])
    with pytest.raises(DataError, match=r"bands\.npy has 5 channels|has 5; pack them apart"):
        pack(folder, tmp_path / "set", overwrite=True)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_files_that_hold_no_bands_are_refused(tmp_path, form):
    np.save(tmp_path / "x.npy", bands(3, 5, 8, 8))
    with pytest.raises(DataError, match=f"5 channels, {form} holds 1 or 3; give --encode png"):
        pack(tmp_path / "x.npy", tmp_path / "set", encode=form)


def test_a_shape_that_would_be_read_otherwise_is_not_packed(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 7, 8, 6), np.uint8))
    pack(tmp_path / "x.npy", tmp_path / "good")
    assert unpack(tmp_path / "good")[0].shape == (3, 6, 7, 8)
    # [H, W, C]; stored as [2, 9, 3] it would become 2 x 9 pixels in colour.
    np.save(tmp_path / "x.npy", np.zeros((3, 9, 3, 2), np.uint8))
    with pytest.raises(DataError, match=r"\[2, 9, 3\], of which it could not be told again"):
        pack(tmp_path / "x.npy", tmp_path / "bad")
    pack(tmp_path / "x.npy", tmp_path / "bad", size=4)
    assert unpack(tmp_path / "bad")[0].shape == (3, 2, 4, 4)


def test_a_sample_too_large_to_be_read_again_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr("data.set_writer.MAX_MEMBER_BYTES", 2000)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8))
    with pytest.raises(DataError) as error:
        pack(tmp_path / "x.npy", tmp_path / "set")
    assert "x.npy[0]" in str(error.value) and "more than the 2,000 of a sample" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "set").exists()
    pack(tmp_path / "x.npy", tmp_path / "small", size=16)


def test_pictures_of_bands_show_the_first_three():
    from pages.pictures import to_picture
    from training.previews import grid_of

    images = torch.from_numpy(bands(2, 5, 60, 60))
    seen = np.asarray(to_picture(images[0].numpy()))
    np.testing.assert_array_equal(seen, images[0, :3].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(grid_of(images / 255)[:60, :60], seen)
    two = np.asarray(to_picture(images[0, :2].numpy()))
    np.testing.assert_array_equal(two, images[0, 0].numpy())
    file = io.BytesIO()
    to_picture(images[0].numpy()).save(file, "PNG")
