"""Hostile shards: what is wrong is in an image or an array."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.data.hostile_shard import CODE, SCRIPT, HostileShard, Payload, bad, read
from tests.data.raw_tars import GREY, PNG, member
from tests.data.tars import encode, npy, random_images

COLOUR = random_images(1, 8, 8, 3, seed=1)[0]
OBJECTS = npy(np.array([[Payload()]], dtype=object), allow_pickle=True)
LIMIT = "above the limit of 67108864 pixels"


def hostile_images() -> Iterator[HostileShard]:
    """Every kind."""
    yield from _bombs()
    yield from _images()
    yield from _arrays()


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Encode with Pillow."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG, with its checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG of a header, the chunks given, and its end."""
    claim = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", claim), *chunks, png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pixels(count: int) -> bytes:
    """An IDAT chunk that unpacks to so many zero bytes."""
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(min(2**20, count - at))) for at in range(0, count, 2**20)]
    return png_chunk(b"IDAT", b"".join(blocks) + packer.flush())


def huge_png() -> bytes:
    """All the pixels that are allowed, in 9 KB."""
    return png(8192, 8192, pixels(8192 * 1025), bits=1)


def npy_header(text: bytes, version: int = 1, length: int | None = None) -> bytes:
    """A `.npy` header that holds any text, and claims any length."""
    claim = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + claim + text


def array_text(shape: str, kind: str = "'|u1'", fortran: str = "False") -> bytes:
    """The text of a `.npy` header."""
    return f"{{'descr': {kind}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header is that of a larger image."""
    data = bytearray(encode(GREY, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """A lossless WebP whose header is that of a larger image."""
    data = bytearray(encode(COLOUR, "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(data)


def jpeg_of_many_scans() -> bytes:
    """A progressive JPEG whose last scan comes a thousand times."""
    return _many_scans(encode(GREY, "JPEG", progressive=True))


def mpo_of_many_scans() -> bytes:
    """Such a JPEG that says it is the first of two: Pillow then calls its format another."""
    two = Image.fromarray(GREY)
    data = saved(two, "MPO", save_all=True, append_images=[two], progressive=True)
    return _many_scans(data)


def _many_scans(data: bytes) -> bytes:
    last = data.rindex(b"\xff\xda")
    return data[:last] + 1000 * data[last:-2] + data[-2:]


def _bombs() -> Iterator[HostileShard]:
    for name, suffix, content, reason in (
        ("PNG of 100,000 x 100,000", "png", png(100_000, 100_000, pixels(100)), LIMIT),
        ("PNG of 10,000 x 10,000", "png", png(10_000, 10_000, pixels(100)), LIMIT),
        ("PNG of 2^31 x 1", "png", png(2**31 - 1, 1, pixels(100)), LIMIT),
        ("PNG of 0 x 0", "png", png(0, 0, pixels(1)), "does not decode"),
        (
            "PNG just within the limit that is cut",
            "png",
            png(8192, 8192, pixels(100)),
            "does not decode",
        ),
        (
            "PNG with text that unpacks to 16 MB",
            "png",
            png(8, 8, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**24))), pixels(72)),
            "does not decode",
        ),
        ("JPEG of 65,500 x 65,500", "jpg", jpeg_claiming(65_500, 65_500), LIMIT),
        ("JPEG of 1000 scans", "jpg", jpeg_of_many_scans(), "scans"),
        ("JPEG of several images and 1000 scans", "jpg", mpo_of_many_scans(), "scans"),
        ("WebP of 16,383 x 16,383", "webp", webp_claiming(16_383, 16_383), LIMIT),
        ("npy that claims 10 GB", "npy", npy_header(array_text("(100000, 100000)")), LIMIT),
        (
            "npy that claims 60 MB",
            "npy",
            npy_header(array_text("(7000, 9000)")) + b"x",
            "1 bytes of pixels",
        ),
        ("npy of 10^40 pixels", "npy", npy_header(array_text(f"({10**40}, 1)")), LIMIT),
        (
            "npy whose header claims 4 GB",
            "npy",
            npy_header(b"x", 2, 2**32 - 1),
            "a header of 4294967295 bytes",
        ),
    ):
        yield bad(f"bomb: {name}", "k", reason, member(f"k.{suffix}", content))
    yield read(
        "bomb: IDAT of 16 MB in 8 x 8 pixels", "k", member("k.png", png(8, 8, pixels(2**24)))
    )
    claim = PNG[:33] + struct.pack(">I", 2**31 - 1) + PNG[37:]
    yield read("bomb: IDAT that claims 2 GB", "k", member("k.png", claim))
    yield bad(
        "bomb: colour profile of 16 MB",
        "k",
        "does not decode",
        member(
            "k.png",
            png(8, 8, png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**24))), pixels(72)),
        ),
    )
    yield read("bomb: 8192 x 8192 pixels in 9 KB", "k", member("k.png", huge_png()))
    gif = bytearray(encode(GREY, "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield bad(
        "bomb: GIF of 65,535 x 65,535",
        "k",
        "not one of PNG, JPEG, WEBP",
        member("k.png", bytes(gif)),
    )
    packed = gzip.compress(bytes(2**24))
    yield bad("bomb: gzip as an image", "k", "not one of PNG, JPEG, WEBP", member("k.png", packed))
    yield bad("bomb: gzip as an array", "k", "not an npy array", member("k.npy", packed))


def _images() -> Iterator[HostileShard]:
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    alpha = Image.fromarray(np.dstack([COLOUR, GREY]))
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = encode(COLOUR, "JPEG")
    interlaced = bytearray(png(8, 8, pixels(8 * 15)))
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(bytes(interlaced[12:29])))
    frames = [Image.fromarray(frame) for frame in random_images(3, 8, 8, 3, seed=2)]
    animated = {"save_all": True, "append_images": frames[1:]}
    for name, suffix, content in (
        ("PNG that is a JPEG", "png", jpeg),
        ("JPEG that is a WebP", "jpg", encode(COLOUR, "WEBP")),
        ("16-bit PNG", "png", saved(Image.fromarray(GREY.astype(np.uint16) * 257))),
        ("CMYK JPEG", "jpg", saved(Image.new("CMYK", (8, 8), (9, 99, 0, 5)), "JPEG")),
        ("PNG with alpha", "png", saved(alpha)),
        ("WebP with alpha", "webp", saved(alpha, "WEBP")),
        ("palette", "png", saved(colour.quantize(7))),
        ("palette with transparency", "png", saved(colour.quantize(7), transparency=b"\0\x80")),
        ("1 bit", "png", saved(grey.convert("1"))),
        ("interlaced PNG", "png", bytes(interlaced)),
        ("progressive JPEG", "jpg", encode(COLOUR, "JPEG", progressive=True)),
        ("EXIF orientation", "jpg", saved(colour, "JPEG", exif=turned)),
        ("EXIF of junk", "png", saved(colour, exif=b"Exif\0\0junk" * 9)),
        (
            "EXIF with an orientation of text",
            "jpg",
            saved(colour, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\2ab\0\0"),
        ),
        ("colour profile of junk", "jpg", saved(colour, "JPEG", icc_profile=b"junk" * 99)),
        ("colour profile of junk in a PNG", "png", saved(colour, icc_profile=b"\xff" * 99)),
        ("animated WebP", "webp", saved(frames[0], "WEBP", **animated)),
        ("animated PNG", "png", saved(frames[0], **animated)),
        ("code after the image", "png", PNG + SCRIPT),
        ("code in a comment", "jpg", saved(colour, "JPEG", comment=CODE)),
    ):
        yield read(f"image: {name}", "k", member(f"k.{suffix}", content))
    zeros = bytearray(PNG)
    zeros[45:60] = bytes(15)
    for name, suffix, content, reason in (
        ("JPEG that is text", "jpg", b"not an image\n" * 9, "not one of PNG, JPEG, WEBP"),
        ("PNG that is an array", "png", npy(GREY), "not one of PNG, JPEG, WEBP"),
        ("array that is a PNG", "npy", PNG, "not an npy array"),
        ("PNG that is a GIF", "png", encode(GREY, "GIF"), "not one of"),
        ("PNG that is a BMP", "png", encode(GREY, "BMP"), "not one of"),
        ("PNG that is a TIFF", "png", encode(GREY, "TIFF"), "not one of"),
        (
            "PNG that is an EPS",
            "png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
            "not one of",
        ),
        ("PNG that is an SVG", "png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not one of"),
        ("PNG that is a pickle", "png", CODE, "not one of"),
        ("truncated JPEG", "jpg", jpeg[: len(jpeg) * 2 // 3], "does not decode"),
        ("truncated PNG", "png", PNG[:60], "does not decode"),
        ("truncated WebP", "webp", encode(COLOUR, "WEBP")[:40], "does not decode"),
        ("PNG with zeroed pixels", "png", bytes(zeros), "does not decode"),
        ("PNG without pixels", "png", png(8, 8), "does not decode"),
        ("first bytes of a PNG", "png", PNG[:8], "does not decode"),
        ("first bytes of a JPEG", "jpg", jpeg[:3], "does not decode"),
    ):
        yield bad(f"image: {name}", "k", reason, member(f"k.{suffix}", content))


def _arrays() -> Iterator[HostileShard]:
    for name, content in (
        ("Fortran order", npy(np.asfortranarray(COLOUR))),
        ("version 2", npy_header(array_text("(8, 8)"), 2) + GREY.tobytes()),
        ("one channel", npy(GREY[..., None])),
    ):
        yield read(f"npy: {name}", "k", member("k.npy", content))
    deep = b"{'descr': " + b"-" * 5000 + b"1}"
    for name, content, reason in (
        ("NaN", npy(np.full((8, 8), np.nan)), "npy of float64; an image is uint8"),
        ("infinite float16", npy(np.full((8, 8), np.inf, np.float16)), "npy of float16"),
        ("objects", OBJECTS, "Python objects"),
        (
            "objects in a field",
            npy(np.zeros((8, 8), [("a", "O")]), allow_pickle=True),
            "Python objects",
        ),
        ("int64", npy(GREY.astype(np.int64)), "npy of int64"),
        ("signed bytes", npy(GREY.astype(np.int8)), "npy of int8"),
        ("bool", npy(GREY > 9), "npy of bool"),
        ("complex", npy(GREY.astype(complex)), "npy of complex128"),
        (
            "a structured type",
            npy(np.zeros((8, 8), [("r", "u1"), ("g", "u1")])),
            "an image is uint8",
        ),
        ("text", npy(np.array([["a"]])), "an image is uint8"),
        ("0 dimensions", npy(np.uint8(7)), "image array of shape []"),
        ("1 dimension", npy(GREY[0]), "image array of shape [8]"),
        ("4 dimensions", npy(COLOUR[None]), "image array of shape [1, 8, 8, 3]"),
        ("a cube", npy(np.zeros((8, 8, 8), np.uint8)), "image array of shape [8, 8, 8]"),
        ("endless channels", npy_header(array_text("(8, 8, 9999999999)")) + bytes(64), "bytes of"),
        ("no rows", npy(GREY[:0]), "it is empty"),
        ("a negative shape", npy_header(array_text("(-8, 8)")) + bytes(64), "shape [-8, 8]"),
        ("a shape of True", npy_header(array_text("(True, 64)")) + bytes(65), "bytes of pixels"),
        ("a shape of text", npy_header(array_text("('8', 8)")) + bytes(64), "not an npy array"),
        ("more than it claims", npy(GREY) + b"x", "65 bytes of pixels"),
        ("less than it claims", npy(GREY)[:-1], "63 bytes of pixels"),
        ("version 3", npy_header(array_text("(8, 8)"), 3) + bytes(64), "npy version (3, 0)"),
        ("version 9", npy_header(array_text("(8, 8)"), 9) + bytes(64), "npy"),
        (
            "code",
            npy_header(b"__import__('os').system('touch \"$HOSTILE_MARK\"')"),
            "not an npy array",
        ),
        ("code as its type", npy_header(array_text("(8, 8)", "exec('1')")), "not an npy array"),
        ("an empty type", npy_header(array_text("(8, 8)", "()")), "not an npy array"),
        ("a list as a key", npy_header(b"{[]: 1}\n"), "not an npy array"),
        ("5,000 signs", npy_header(deep), "not an npy array"),
        ("3,000 brackets", npy_header(array_text("(8, 8)", "(" * 3000)), "not an npy array"),
        ("a header of 60 KB", npy_header(b"x" * 60_000), "not an npy array"),
        ("a NUL", npy_header(b"{'descr': \0}\n"), "not an npy array"),
        ("a pickle", CODE, "not an npy array"),
        ("a zip of arrays", b"PK\3\4" + bytes(100), "not an npy array"),
    ):
        yield bad(f"npy: {name}", "k", reason, member("k.npy", content))
