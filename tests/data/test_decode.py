"""Images of every kind decode to uint8 [C, H, W] by the rules that docs/data.md states."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.decode import SHARD_FORMATS, decode_image, fit_image, image_shape
from data.errors import DataError
from tests.data.tars import encode, npy, random_images

GREY = random_images(1, 12, 20)[0]
COLOUR = random_images(1, 12, 20, 3, seed=1)[0]


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_lossless_formats_give_the_same_pixels():
    for suffix in ("png", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        colour = decode_image(encode(COLOUR, suffix, **options), suffix)
        np.testing.assert_array_equal(colour, COLOUR.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode_image(encode(GREY), "png"), GREY[None])
    near = decode_image(encode(GREY, "JPEG", quality=95), "jpg").astype(int)
    assert near.shape == (1, 12, 20)
    assert np.abs(near - GREY).mean() < 5


def test_npy_of_every_axis_order():
    chw = COLOUR.transpose(2, 0, 1)
    for array in (COLOUR, chw, np.asfortranarray(COLOUR)):
        np.testing.assert_array_equal(decode_image(npy(array), "npy"), chw)
    for array in (GREY, GREY[None], GREY[..., None]):
        np.testing.assert_array_equal(decode_image(npy(array), "npy"), GREY[None])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(np.array([{}, {}]), allow_pickle=True), "Python objects"),
        (npy(GREY.astype(np.float32)), "float32; an image is uint8"),
        (npy(np.zeros((12, 20, 12), np.uint8)), "shape [12, 20, 12], of which it cannot be told"),
        (npy(COLOUR[None]), "shape [1, 12, 20, 3]"),
        (npy(GREY)[:-1], "239 bytes of pixels"),
        (npy(GREY) + b"x", "241 bytes of pixels"),
        (npy(GREY[:0]), "it is empty"),
        (npy(GREY).replace(b"(12, 20)", b"(-2, 20)"), "shape [-2, 20]"),
        (b"no npy", "not an npy array"),
        (b"", "not an npy array"),
    ],
)
def test_npy_that_is_no_image_is_refused(data, said):
    with pytest.raises(DataError) as error:
        decode_image(data, "npy")
    assert said in str(error.value)


def test_sixteen_bits_keep_the_upper_eight():
    wide = (GREY.astype(np.uint16) << 8) + 200
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(wide)), "png"), GREY[None])


def test_one_bit_becomes_black_and_white():
    bits = Image.fromarray(GREY > 127)
    expected = np.where(GREY > 127, 255, 0)
    np.testing.assert_array_equal(decode_image(saved(bits), "png")[0], expected)


def test_palettes_become_their_colours():
    quantized = Image.fromarray(COLOUR).quantize(16)
    expected = np.asarray(quantized.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(saved(quantized), "png"), expected)


def test_transparent_pixels_lie_over_white():
    alpha = np.zeros((12, 20), np.uint8)
    alpha[:6] = 255
    rgba = Image.fromarray(np.dstack([COLOUR, alpha]))
    decoded = decode_image(saved(rgba), "png")
    np.testing.assert_array_equal(decoded[:, :6], COLOUR.transpose(2, 0, 1)[:, :6])
    assert (decoded[:, 6:] == 255).all()
    grey_alpha = decode_image(saved(Image.fromarray(np.dstack([GREY, alpha]), "LA")), "png")
    assert grey_alpha.shape == (1, 12, 20)
    np.testing.assert_array_equal(grey_alpha[0, :6], GREY[:6])
    assert (grey_alpha[0, 6:] == 255).all()
    key = decode_image(saved(Image.fromarray(GREY), transparency=int(GREY[0, 0])), "png")
    assert key[0, 0, 0] == 255


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    decoded = decode_image(saved(cmyk, "JPEG", quality=95), "jpg")
    assert decoded.shape == (3, 8, 8)
    assert decoded[0].max() < 10 < 245 < decoded[1:].min()


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    data = saved(Image.fromarray(COLOUR), "PNG", exif=exif)
    expected = np.rot90(COLOUR, k=-1).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(data, "png"), expected)
    assert image_shape(data) == (3, 20, 12)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.fromarray(pixels) for pixels in random_images(3, 8, 8, 3)]
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
        expected = np.asarray(frames[0]).transpose(2, 0, 1)
        np.testing.assert_array_equal(decode_image(data, form.lower()), expected)


def test_a_bomb_is_refused_by_its_header():
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    for read in (lambda: decode_image(bomb, "png"), lambda: image_shape(bomb)):
        with pytest.raises(DataError, match="9000 x 9000 pixels is above the limit of 67108864"):
            read()
    with pytest.raises(DataError, match="20 x 12 pixels is above the limit of 239"):
        decode_image(encode(GREY), "png", max_pixels=239)
    decode_image(encode(GREY), "png", max_pixels=240)
    with pytest.raises(DataError, match="above the limit"):
        decode_image(npy(GREY), "npy", max_pixels=239)


def test_what_does_not_decode_is_one_line():
    whole = encode(COLOUR, "JPEG")
    for data in (b"", b"no image", whole[:200], encode(GREY)[:60], encode(GREY, "BMP")):
        with pytest.raises(DataError, match="does not decode") as error:
            decode_image(data, "png")
        assert "\n" not in str(error.value)


def test_channels_are_converted():
    three = decode_image(encode(GREY), "png", channels=3)
    np.testing.assert_array_equal(three, np.stack([GREY] * 3))
    luma = decode_image(encode(COLOUR), "png", channels=1)[0].astype(float)
    np.testing.assert_allclose(luma, COLOUR @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(300, 500), (500, 300), (301, 301)])
def test_size_scales_the_short_side_and_crops_the_middle(form, height, width):
    """A white disc in the middle of a wide picture fills the same part of the small one."""
    rows, columns = np.mgrid[:height, :width]
    side = min(height, width)
    inside = np.hypot(rows - height / 2, columns - width / 2) < side / 4
    small = decode_image(encode((inside * 255).astype(np.uint8), form), form.lower(), size=32)
    rows, columns = np.mgrid[:32, :32] + 0.5
    expected = np.hypot(rows - 16, columns - 16) < 8
    assert small.shape == (1, 32, 32)
    assert ((small[0] > 127) == expected).mean() > 0.97
    assert small[0].mean() / 255 == pytest.approx(np.pi / 16, rel=0.03)


def test_arrays_are_fitted_as_encoded_images_are():
    data = encode(COLOUR)
    chw = COLOUR.transpose(2, 0, 1)
    for options in ({"size": 8}, {"channels": 1}, {"size": 30, "channels": 1}, {"size": 12}, {}):
        expected = decode_image(data, "png", **options)
        np.testing.assert_array_equal(fit_image(chw, **options), expected)
        np.testing.assert_array_equal(decode_image(npy(COLOUR), "npy", **options), expected)


def test_the_header_tells_the_shape():
    for data in (encode(GREY), encode(COLOUR), encode(COLOUR, "JPEG"), encode(COLOUR, "WEBP")):
        assert image_shape(data) == decode_image(data, "").shape
    with pytest.raises(DataError, match=", ".join(SHARD_FORMATS)):
        image_shape(b"no image")
