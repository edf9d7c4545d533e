"""Hostile shards: what is wrong is in the tar, its names, or how members make samples."""

import gzip
import struct
from collections.abc import Iterator

from tests.data.hostile_shard import (
    CODE,
    SCRIPT,
    HostileShard,
    bad,
    cut,
    passed_over,
    read,
    shard,
)
from tests.data.raw_tars import PNG, gnu_name, header, member, padded, pax, pax_records
from tests.data.tars import random_images

END = bytes(1024)


def hostile_tars() -> Iterator[HostileShard]:
    """Every kind."""
    yield from _names()
    yield from _kinds()
    yield from _headers()
    yield from _whole_files()
    yield from _samples()
    yield from _labels()


def _names() -> Iterator[HostileShard]:
    for name, key in {
        "a path upwards": "../../../escaped",
        "an absolute path": "/tmp/escaped",
        "a drive letter": "C:\\windows\\escaped",
        "a path of the network": "\\\\server\\share\\escaped",
        "a path within": "a/../../escaped",
        "a command for the shell": '$(touch "$HOSTILE_MARK")`touch "$HOSTILE_MARK"`',
        "a pipe for the shell": '| touch "$HOSTILE_MARK" ;',
        "an option": "--checkpoint-action=exec",
        "a URL": "https://example.invalid/x",
        "HTML": "<script>alert(1)<&>\"'",
        "a formula": "=cmd|' 'C0",
        "a device of another system": "con",
        "a template": "{{7*7}}{%raw%}",
    }.items():
        yield read(f"name: {name}", key, member(f"{key}.png"))
    unprintable = "cannot be printed"
    for name, raw, key in (
        ("a newline", b"a\nb.png", "a\\nb.png"),
        ("a carriage return", b"a\rb.png", "a\\rb.png"),
        ("an escape sequence", b"\x1b]0;x\x07.png", "\\x1b]0;x\\x07"),
        ("text from right to left", "a\u202egnp.png".encode(), "a\\u202egnp"),
    ):
        yield bad(f"name: {name}", key.removesuffix(".png"), unprintable, member(raw))
    yield bad("name: a NUL, GNU", "a", unprintable, gnu_name(b"a.png\0b"), member("x"))
    yield bad("name: a NUL, pax", "a", unprintable, pax(path=b"a.png\0b"), member("x"))
    yield read("name: a NUL ends it", "a", member(b"a.png\0.pkl"))
    yield bad("name: not UTF-8", "k\\xff\\xfe", "not UTF-8", member(b"k\xff\xfe.png"))
    for dialect, parts in (("GNU", gnu_name), ("pax", lambda raw: pax(path=raw))):
        yield read(
            f"name: long, {dialect}", "d/" * 400 + "x", parts(b"d/" * 400 + b"x.png"), member("s")
        )
        yield bad(
            f"name: 60,000 bytes, {dialect}",
            "x" * 64,
            "60004 bytes is above",
            parts(b"x" * 60_000 + b".png"),
            member("s"),
        )
    for name in ("", "/", "..", ".", "...", "a/", ".png", "d/.png", "d/", "no-ending"):
        yield passed_over(f"name: {name!r}", member(name, b""))
    yield bad("name: a huge ending", "k", "no image: it has .eee", member("k." + "e" * 90))
    many = [member(f"k.e{n}", b"") for n in range(500)]
    yield bad("name: 500 endings", "k", ".e3, 496 more", *many)


def _kinds() -> Iterator[HostileShard]:
    for name, kind, reason in (
        ("a hard link", b"1", "a hard link"),
        ("a symbolic link", b"2", "a symbolic link"),
        ("a character device", b"3", "a character device"),
        ("a block device", b"4", "a block device"),
        ("a pipe", b"6", "a pipe"),
        ("part of several volumes", b"M", "several volumes"),
        ("a dump of a folder", b"D", "unknown type"),
        ("a type of a vendor", b"Z", "unknown type"),
    ):
        content = b"" if kind in b"12346" else PNG
        yield bad(f"kind: {name}", "k", reason, member("k.png", content, kind, link=b"/etc/passwd"))
    yield bad(
        "kind: a link upwards", "k", "a symbolic link", member("k.png", b"", b"2", link=b"../../x")
    )
    yield bad(
        "kind: a link to itself", "k", "a symbolic link", member("k.png", b"", b"2", link=b"k.png")
    )
    yield bad(
        "kind: a link to a folder, and a file in it",
        "out",
        "a symbolic link",
        member("out.png", b"", b"2", link=b"/tmp"),
        member("out/", b"", b"5"),
    )
    yield bad(
        "kind: a link that claims 10 GB", "k", "a hard link", header(b"k.png", 10**10 // 8, b"1")
    )
    yield passed_over("kind: a folder that claims 10 GB", header(b"d", 8**11 - 1, b"5"))
    yield read("kind: contiguous", "k", member("k.png", kind=b"7"))
    yield read("kind: of the oldest tars", "k", member("k.png", kind=b"\0", magic=b""))
    sparse = struct.pack("12s12s", b"00000000000\0", b"%011o\0" % len(PNG))
    yield bad(
        "sparse: GNU", "k", "a sparse file", member("k.png", kind=b"S", tail=bytes(41) + sparse)
    )
    more = header(
        b"k.png", len(PNG), b"S", magic=b"ustar  \0", tail=bytes(137) + b"\1"
    ) + sparse.ljust(504, b"\0")
    yield bad(
        "sparse: GNU, a long map",
        "k",
        "a sparse file",
        more + b"\1".ljust(8, b"\0") + bytes(512) + padded(PNG),
    )
    for version, records in (
        ("0.0", {"GNU__sparse__numblocks": b"1", "GNU__sparse__offset": b"0"}),
        ("0.1", {"GNU__sparse__map": b"0,10", "GNU__sparse__size": b"9" * 15}),
        ("1.0", {"GNU__sparse__major": b"1", "GNU__sparse__realsize": b"9" * 15}),
    ):
        parts = pax(GNU__sparse__name=b"k.png", **records), member("GNUSparseFile.0/other.png")
        yield bad(f"sparse: pax {version}", "k", "a sparse file", *parts)


def _headers() -> Iterator[HostileShard]:
    octal = b"%011o\0" % len(PNG)
    for name, magic in (
        ("GNU", b"ustar  \0"),
        ("v7", b""),
        ("star", b"tar\0"),
        ("odd", b"ustarXYZ"),
    ):
        yield read(f"magic: {name}", "k", member("k.png", magic=magic))
    yield read(
        "size: base 256",
        "k",
        header(b"k.png", b"\x80" + len(PNG).to_bytes(11, "big")) + padded(PNG),
    )
    yield read("size: with spaces", "k", header(b"k.png", b"%11o " % len(PNG)) + padded(PNG))
    for name, size in (
        ("10 GB", b"%011o\0" % (8 * 10**9)),
        ("10 GB in base 256", b"\x80" + (10**10).to_bytes(11, "big")),
        ("2^87 in base 256", b"\x80\x80" + bytes(10)),
    ):
        yield cut(f"size: {name}", "truncated", header(b"k.png", size) + padded(PNG), key="k")
    for name, size in (
        ("negative in base 256", b"\xff" * 12),
        ("negative in ASCII", b"-0000000001\0"),
        ("not octal", b"00000000009\0"),
        ("text", b"ten million\0"),
        ("with a NUL within", b"0000\00000010\0"),
    ):
        yield cut(f"size: {name}", "no valid member header", header(b"k.png", size) + padded(PNG))
    for name, checksum in (("wrong", b"000001\0 "), ("blank", bytes(8)), ("text", b"checksum")):
        yield cut(
            f"checksum: {name}",
            "no valid member header",
            header(b"k.png", octal, checksum=checksum) + padded(PNG),
        )
    accented = "é.png".encode()
    total = sum(header(accented, octal, checksum=b" " * 8))
    signed = b"%06o\0 " % (total - 2 * 256)
    yield read(
        "checksum: of signed bytes", "é", header(accented, octal, checksum=signed) + padded(PNG)
    )
    yield read("pax: another name", "k", pax(path=b"k.png"), member("s.cls"))
    yield read(
        "pax: a smaller size",
        "k",
        pax(size=b"%d" % len(PNG)),
        header(b"k.png", 10**6) + padded(PNG),
    )
    yield read(
        "pax: a larger size", "k", pax(size=b"%d" % len(PNG)), header(b"k.png", 0) + padded(PNG)
    )
    yield read("pax: a link's target", "k", pax(linkpath=b"/etc/passwd"), member("k.png"))
    yield read(
        "pax: 5,000 records",
        "k",
        member("p", pax_records([("comment", b"")] * 5000), b"x"),
        member("k.png"),
    )
    yield read("pax: two headers", "k", pax(path=b"other.png"), pax(path=b"k.png"), member("s.png"))
    yield read("pax: of the archive", "k", pax(b"g", comment=b"from git"), member("k.png"))
    for name, size in (
        ("negative", b"-1"),
        ("text", b"ten"),
        ("of 30 digits", b"9" * 30),
        ("empty", b""),
    ):
        yield cut(
            f"pax: a size that is {name}", "size is not a number", pax(size=size), member("k.png")
        )
    yield cut(
        "pax: a size of 10 GB", "truncated", pax(size=b"9999999999"), member("k.png"), key="k"
    )
    for name, text in (
        ("too long a record", b"999 path=k.png\n"),
        ("too short a record", b"5 path=k.png\n"),
        ("a record of length 0", b"0 path=k.png\n"),
        ("a record without a value", b"9 pathxx\n"),
        ("a record without an end", b"14 path=k.png "),
        ("a length that is negative", b"-5 path=k.png\n"),
        ("a length of 4,000 digits", b"9" * 4000 + b" path=k.png\n"),
        ("no record", b"\xff" * 300),
    ):
        yield cut(
            f"pax: {name}",
            "pax header that cannot be read",
            member("p", text, b"x"),
            member("k.png"),
        )
    yield cut("pax: 100 KB", "above 64 KiB", pax(comment=b"x" * 100_000), member("k.png"))
    yield cut(
        "pax: one size for all",
        "names or measures all members",
        pax(b"g", size=b"0"),
        member("k.png"),
    )
    yield cut(
        "pax: one name for all",
        "names or measures all members",
        pax(b"g", path=b"k.png"),
        member("k.png"),
    )
    yield read(
        "GNU: two long names", "k", gnu_name(b"other.png"), gnu_name(b"k.png"), member("s.png")
    )
    yield read("GNU: a long link", "k", gnu_name(b"/etc/passwd", b"K"), member("k.png"))
    yield read(
        "GNU: a name without an end", "k", member("././@LongLink", b"k.png", b"L"), member("s.png")
    )
    yield cut(
        "GNU: a name of 10 GB",
        "truncated",
        header(b"././@LongLink", 8 * 10**9, b"L"),
        member("s.png"),
    )
    yield cut("GNU: a name of 100 KB", "above 64 KiB", gnu_name(b"x" * 100_000), member("s.png"))
    hanging = member("first.png") + gnu_name(b"k.png")
    yield HostileShard("GNU: a name of nothing", hanging + END, ("first",), ())


def _whole_files() -> Iterator[HostileShard]:
    whole = shard()
    both = ("first", "last")
    for name, content, good, reason in (
        ("0 bytes", b"", (), "truncated: it ends at byte 0"),
        ("half a block", whole[:256], (), "truncated: it ends at byte 256"),
        ("one block of zeros", bytes(512), (), "truncated"),
        ("text", b"no tar at all\n" * 200, (), "not a tar file"),
        ("a PNG", PNG, (), "truncated"),
        ("an executable", b"\x7fELF\2\1\1" + bytes(4000), (), "not a tar file"),
        ("a pickle", CODE, (), "truncated"),
        ("a zip", b"PK\3\4" + bytes(range(256)) * 8, (), "not a tar file"),
        ("gzip", gzip.compress(random_images(1, 50, 50).tobytes() + whole), (), "it is compressed"),
        ("short gzip", gzip.compress(whole), (), "it is compressed"),
        ("a bomb of gzip", gzip.compress(bytes(2**24)), (), "it is compressed"),
        ("bzip2", b"BZh91AY&SY" + bytes(range(256)) * 4, (), "it is compressed"),
        ("xz", b"\xfd7zXZ\0" + bytes(range(256)) * 4, (), "it is compressed"),
        ("zstd", b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 4, (), "it is compressed"),
        ("a second archive after the end", whole + whole, ("first",), "data after the end"),
        ("code after the end", whole + CODE, ("first",), "data after the end"),
        ("without an end", whole[:-1024], ("first",), "truncated"),
        ("half an end", whole[:-512], ("first",), "truncated"),
    ):
        yield HostileShard(f"file: {name}", content, good, (("last" if good else "", reason),))
    half = whole[: len(member("first.png")) + 100]
    yield HostileShard("file: cut in a header", half, (), (("first", "truncated"),))
    half = whole[: len(member("first.png")) + 512 + 50]
    yield HostileShard("file: cut in an image", half, ("first",), (("last", "inside last.png"),))
    yield HostileShard("file: a name like bzip2's", member("BZhang.png") + END, ("BZhang",), ())
    yield HostileShard("file: 4 MB of zeros at the end", whole + bytes(2**22), both, ())


def _samples() -> Iterator[HostileShard]:
    for suffix in (
        "pyd",
        "pkl",
        "pickle",
        "pth",
        "pt",
        "json",
        "so",
        "sh",
        "py",
        "exe",
        "html",
        "gif",
    ):
        content = SCRIPT if suffix in ("sh", "py", "exe", "so") else CODE
        yield read(
            f"beside an image: .{suffix}", "k", member(f"k.{suffix}", content), member("k.png")
        )
        yield bad(
            f"alone: .{suffix}", "k", f"no image: it has .{suffix}", member(f"k.{suffix}", content)
        )
    again = member("k.png") + member("m.png") + member("k.png")
    yield HostileShard(
        "a key again", shard(again), ("first", "k", "m", "last"), (("k", "appeared before"),)
    )
    yield bad("a label without an image", "k", "no image", member("k.cls", b"1"))
    yield read("an image without a label", "k", member("k.png"))
    yield bad("two images", "k", "two images, .png and .jpg", member("k.png"), member("k.jpg"))
    yield bad(
        "the same image twice", "k", "two images, .png and .png", member("k.png"), member("k.png")
    )
    yield bad("500 images", "k", "two images, .png and .png", *[member("k.png")] * 500)
    yield bad("two labels", "k", "two .cls", member("k.png"), *[member("k.cls", b"1")] * 2)
    yield bad("an empty image", "k", ".png is empty", member("k.png", b""))
    yield bad(
        "an image of 65 MB",
        "k",
        "is above the limit of 67108864",
        member("k.png", bytes(65 * 2**20)),
    )
    parts = member("a.png") + member("b.cls", b"1") + member("a.cls", b"1")
    reasons = ("b", "no image"), ("a", "appeared before")
    yield HostileShard("pairs in disorder", shard(parts), ("first", "a", "last"), reasons)


def _labels() -> Iterator[HostileShard]:
    for text in (b"0", b"12", b" 7 \n", b"\t7\r\n", b"000000007", b"1048575"):
        yield read(f"label: {text!r}", "k", member("k.png"), member("k.cls", text))
    for text, reason in (
        (b"-1", "not a class number"),
        (b"+1", "not a class number"),
        (b"1.0", "not a class number"),
        (b"1e3", "not a class number"),
        (b"1_000", "not a class number"),
        (b"0x10", "not a class number"),
        (b"7 8", "not a class number"),
        (b"nan", "not a class number"),
        (b"cat\x1b[2J", "not a class number"),
        (b"\xd9\xa1", "not a class number"),
        (b"7\0", "not a class number"),
        (b"", "0 bytes, not a class number"),
        (b" " * 5000 + b"7", "5001 bytes, not a class number"),
        (b"1048576", "class numbers count from 0 to 1048575"),
        (b"999999999", "class numbers count from 0 to 1048575"),
        (b"1" * 30, "not a class number"),
        (b"9" * 5000, "not a class number"),
        (b'__import__("os")', "not a class number"),
    ):
        parts = member("k.png"), member("k.cls", text)
        yield bad(f"label: {text[:20]!r} of {len(text)}", "k", reason, *parts)
