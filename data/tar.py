"""A reader of tar files that trusts nothing: headers, sizes and names are checked, one by one.

Python's `tarfile` and WebDataset stop in silence where a tar is cut off, and read headers of any
size into memory. This reader walks the 512-byte blocks itself: it knows ustar, GNU long names and
pax headers, says where the archive is damaged, and reads a member only when asked to.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.errors import DataError, printable

_BLOCK = 512
_EMPTY = bytes(_BLOCK)
_MAX_NAME_HEADER_BYTES = 2**16  # GNU long names and pax headers; real ones are below 4 KiB
MAX_NAME_BYTES = 2**12  # as long as a path can be
_LONGEST_SHOWN = 64
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_OWN = (b"path", b"size", b"linkpath", b"GNU.sparse.name", b"GNU.sparse.realsize")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"M": "part of a file of several volumes",
}


@dataclass(frozen=True, slots=True)
class TarDamage:
    """The archive cannot be read from byte `offset` on; `name` is the damaged member, if known."""

    offset: int
    reason: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member whose bytes are all there. With a `problem` it is not a plain file to be read.

    `name` is safe to be shown, `raw_name` is what stands in the tar.
    """

    name: str
    raw_name: bytes
    offset: int
    size: int
    problem: str | None
    data_offset: int
    _file: BinaryIO

    def read(self) -> bytes:
        """The member's `size` bytes; only while the iteration that gave it goes on."""
        self._file.seek(self.data_offset)
        return self._file.read(self.size)


def iter_members(path: Path) -> Iterator[TarMember | TarDamage]:
    """Stream a tar's members in order, directories left out; damage is the last item.

    Raises:
        DataError: there is no such file, or it cannot be opened.
    """
    if not path.is_file():  # asked before opening: to open a pipe would wait for ever
        raise DataError(f"{path}: {'not a plain file' if path.exists() else 'no such file'}")
    try:
        file = path.open("rb", buffering=2**18)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
    with file:
        yield from _walk(file, os.fstat(file.fileno()).st_size)


def _walk(file: BinaryIO, end: int) -> Iterator[TarMember | TarDamage]:
    offset = 0
    member_offset: int | None = None  # where the headers of the member to come begin
    long_name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    while True:
        if offset + _BLOCK > end:
            file.seek(offset)
            start = file.read(_BLOCK)
            compressed = offset == 0 and start.startswith(_COMPRESSED)
            yield TarDamage(offset, _no_header(start, 0) if compressed else _cut_off(end))
            return
        file.seek(offset)
        header = file.read(_BLOCK)
        if header == _EMPTY:
            trailing = _first_byte_not_zero(file)
            if offset + 2 * _BLOCK > end:
                yield TarDamage(offset, _cut_off(end))
            elif trailing is not None:
                yield TarDamage(trailing, "there is data after the end of the archive")
            return
        size = _number(header[124:136])
        if size is None or not _checksum_holds(header):
            yield TarDamage(offset, _no_header(header, offset))
            return
        kind = header[156:157]
        if member_offset is None:
            member_offset = offset
        data_offset = offset + _BLOCK

        if kind in b"xgLK" and size <= _MAX_NAME_HEADER_BYTES and data_offset + size <= end:
            data = file.read(size)
            if kind == b"L":
                long_name = data.rstrip(b"\0")
            elif kind == b"x":
                parsed = _pax_records(data)
                if parsed is None:
                    yield TarDamage(offset, "a pax header that cannot be read")
                    return
                pax = parsed
            elif kind == b"g":
                member_offset = None  # it describes the archive, not the next member
                if (parsed := _pax_records(data)) is None or not parsed.keys().isdisjoint(_OWN):
                    # Readers differ in what such a header does to each of the members.
                    yield TarDamage(offset, "a pax header that names or measures all members")
                    return
            offset = data_offset + _padded(size)
            continue
        if kind in b"xgLK":
            reason = _cut_off(end) if data_offset + size > end else "a header above 64 KiB"
            yield TarDamage(offset, reason)
            return

        if b"size" in pax:
            if not pax[b"size"].isdigit() or len(pax[b"size"]) > 18:
                yield TarDamage(offset, "a pax header whose size is not a number")
                return
            size = int(pax[b"size"])
        if kind in b"123456":
            size = 0  # such members have no data, whatever their header says
        if kind == b"S":
            data_offset = _after_sparse_maps(file, header, data_offset)
        if data_offset + size > end:
            name = _shown(_raw_name(header, long_name, pax))
            reason = f"{_cut_off(end)}, inside {name} that goes on to {data_offset + size}"
            yield TarDamage(member_offset, reason, name)
            return
        if kind != b"5":
            yield _member(file, header, long_name, pax, kind, member_offset, data_offset, size)
        offset = data_offset + _padded(size)
        member_offset, long_name, pax = None, None, {}


def _member(
    file: BinaryIO,
    header: bytes,
    long_name: bytes | None,
    pax: dict[bytes, bytes],
    kind: bytes,
    member_offset: int,
    data_offset: int,
    size: int,
) -> TarMember:
    raw = _raw_name(header, long_name, pax)
    problem: str | None = None
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        problem = "its name is not UTF-8"
    else:
        if not name.isprintable():
            problem = "its name has characters that cannot be printed"
    if len(raw) > MAX_NAME_BYTES:
        problem = f"its name of {len(raw)} bytes is above the limit of {MAX_NAME_BYTES}"
    name = _shown(raw)
    if any(key.startswith(b"GNU.sparse") for key in pax):
        kind = b"S"
    if kind not in (b"0", b"\0", b"7"):
        problem = f"{_KINDS.get(kind, f'a member of unknown type {kind!r}')}, not a plain file"
    return TarMember(name, raw, member_offset, size, problem, data_offset, file)


def _raw_name(header: bytes, long_name: bytes | None, pax: dict[bytes, bytes]) -> bytes:
    for key in (b"GNU.sparse.name", b"path"):
        if key in pax:
            return pax[key]
    if long_name is not None:
        return long_name
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":  # in GNU's own format these bytes mean something else
        prefix = header[345:500].split(b"\0", 1)[0]
        if prefix:
            return prefix + b"/" + name
    return name


def _shown(raw: bytes) -> str:
    if len(raw) > MAX_NAME_BYTES:
        raw = raw[:_LONGEST_SHOWN] + b"..."
    return printable(raw.decode("utf-8", errors="backslashreplace"))


def _pax_records(data: bytes) -> dict[bytes, bytes] | None:
    """Parse records `LENGTH KEY=VALUE\\n`; None where they are malformed."""
    records: dict[bytes, bytes] = {}
    data = data.rstrip(b"\0")
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 7)
        digits = data[start:space]
        if space < 0 or not digits.isdigit():
            return None
        end = start + int(digits)
        key, equals, value = data[space + 1 : end].partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            return None
        records[key] = value[:-1]
        start = end
    return records


def _number(field: bytes) -> int | None:
    """Read a header's number, octal or GNU base 256; None where it is neither or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.translate(None, b"01234567"):
        return None
    return int(digits, 8)


def _checksum_holds(header: bytes) -> bool:
    stored = _number(header[148:156])
    total = _sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if stored == total:
        return True
    # Some old writers summed signed bytes.
    signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    return stored == signed


def _sum(header: bytes) -> int:
    """The sum of a header's bytes; Adler-32 has it, modulo 65,521, ten times as fast as Python."""
    half = _BLOCK // 2  # whose sum is below that
    return sum(zlib.adler32(header[begin : begin + half]) % 2**16 - 1 for begin in (0, half))


def _first_byte_not_zero(file: BinaryIO) -> int | None:
    while chunk := file.read(2**20):
        if any(chunk):
            start = file.tell() - len(chunk)
            return start + len(chunk) - len(chunk.lstrip(b"\0"))
    return None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _no_header(block: bytes, offset: int) -> str:
    if offset > 0:
        return "no valid member header here"
    if block.startswith(_COMPRESSED):
        return "not a tar file: it is compressed; decompress it first"
    return "not a tar file"


def _after_sparse_maps(file: BinaryIO, header: bytes, offset: int) -> int:
    """Where the data of an old GNU sparse file begins: after the blocks that map its holes."""
    more = header[482]
    while more:
        file.seek(offset)
        block = file.read(_BLOCK)
        more = len(block) == _BLOCK and block[504]
        offset += _BLOCK
    return offset


def _cut_off(end: int) -> str:
    return f"the tar is truncated: it ends at byte {end}"


def ends_whole(path: Path) -> bool:
    """Whether a file is there and ends as a tar does, in two empty blocks: a quick check."""
    if not path.is_file() or path.stat().st_size < 2 * _BLOCK:
        return False
    with path.open("rb") as file:
        file.seek(-2 * _BLOCK, os.SEEK_END)
        return not any(file.read())
