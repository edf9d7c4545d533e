"""Build tars byte by byte, also those that no program writes."""

from collections.abc import Iterable

from tests.data.tars import encode, random_images

GREY = random_images(1, 8, 8)[0]
PNG = encode(GREY)


def header(
    name: bytes,
    size: int | bytes,
    kind: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    link: bytes = b"",
    checksum: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """One tar header; `size` may be the field itself, `tail` is what follows the device numbers."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    start = name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    start += field.ljust(12, b"\0") + b"00000000000\0"
    rest = kind + link.ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(80) + tail
    rest = rest.ljust(512 - 156, b"\0")
    total = sum(start) + 8 * ord(" ") + sum(rest)
    return start + (b"%06o\0 " % total if checksum is None else checksum) + rest


def padded(content: bytes) -> bytes:
    """Fill up the last block of 512 bytes."""
    return content + bytes(-len(content) % 512)


def member(name: str | bytes, content: bytes = PNG, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A member with its data."""
    raw = name if isinstance(name, bytes) else name.encode()
    return header(raw, len(content), kind, **fields) + padded(content)


def gnu_name(name: bytes, kind: bytes = b"L") -> bytes:
    """What GNU tar writes before a member with a long name."""
    return member("././@LongLink", name + b"\0", kind, magic=b"ustar  \0")


def pax(kind: bytes = b"x", /, **records: bytes) -> bytes:
    """A pax header."""
    return member("PaxHeaders/x", pax_records(records.items()), kind)


def pax_records(records: Iterable[tuple[str, bytes]]) -> bytes:
    """Lines `LENGTH KEY=VALUE`, each of which counts itself."""
    text = b""
    for key, value in records:
        body = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(body) + 1
        while length != len(body) + len(str(length)):
            length += 1
        text += str(length).encode() + body
    return text
