"""Reading shards: which files a pattern names, and the samples in one tar file.

A shard is a WebDataset tar: members that follow each other and share a name up to its first dot
are one sample, such as `000123.png` and `000123.cls`. A tar is hostile input. It is never
extracted, links and devices are never followed, nothing but images and class numbers is read, a
member's size is checked before it is read, and a shard that is cut off is reported.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.dataset import MAX_CLASSES
from data.errors import DataError
from data.tar import TarDamage, TarMember, iter_members

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "npy")
MAX_MEMBER_BYTES = 64 * 2**20
_MAX_BRACE_PATHS = 2**20
_MAX_LABEL_BYTES = 32
_MAX_NAMED = 4  # problems of one sample, or endings, in one line

# The same split into key and endings as WebDataset's, so both see the same samples.
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_LABEL = re.compile(rb"\s*(\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard, its image still encoded.

    `offset` is the byte in the shard where its first member begins, `suffix` the image's ending
    without the dot, and `passed_over` holds the endings of members that were not read. The image's
    own bytes begin at `image_offset` and are `image_size`.
    """

    shard: Path
    offset: int
    key: str
    suffix: str
    image: bytes
    label: int | None
    image_offset: int
    image_size: int
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample, or a place in a shard, that cannot be used. `key` is "" where none is known."""

    shard: Path
    offset: int
    key: str
    reason: str

    def __str__(self) -> str:
        return self.located(str(self.shard))

    def located(self, shard: str) -> str:
        """Return what there is to say, with another name for the shard."""
        key = f" key {self.key}" if self.key else ""
        return f"{shard} offset {self.offset}{key}: {self.reason}"


def expand_shards(spec: str | Sequence[str]) -> list[Path]:
    """List the shards that `spec` names, sorted, each once.

    Args:
        spec: one or more paths. `{000000..000003}` and `{a,b}` are written out, and `*`, `?`,
            `[...]` and `**` match file names.
    Raises:
        DataError: nothing is named, a named file is missing, or a pattern matches no file.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not specs:
        raise DataError("shards: the list is empty; give paths such as datasets/x/train-*.tar")
    found: set[Path] = set()
    for one in specs:
        if not one.strip():
            raise DataError("shards: an empty path; give one such as datasets/x/train-*.tar")
        if one.startswith("pipe:") or "://" in one:
            raise DataError(
                f"shards: {one}: only local files are read here; `python -m pretrain` streams URLs "
                "of http, https, s3, gs and file"
            )
        for pattern in sorted(expand_braces(one)):
            found.update(matching_files(pattern))
    return sorted(found)


def iter_samples(
    path: Path, *, max_member_bytes: int = MAX_MEMBER_BYTES, read_images: bool = True
) -> Iterator[Sample | BadSample]:
    """Stream the samples of one shard, each good or with the reason why it is bad.

    Where the file is damaged (cut off, or not a tar) the last item is a BadSample that says so.

    Args:
        path: a tar file, not compressed.
        max_member_bytes: an image or class number above this size is not read.
        read_images: False leaves the bytes of images where they are, and `image` empty.
    Raises:
        DataError: there is no such file, or it cannot be opened.
    """
    path = Path(path)
    seen: set[str] = set()
    group: _Group | None = None
    for member in iter_members(path):
        key, suffix = _split_name(member.name)
        if isinstance(member, TarDamage):
            if group is not None and key not in ("", group.key):
                yield group.close(path, seen)
                group = None
            if group is None:
                yield BadSample(path, member.offset, key, member.reason)
            else:  # the rest of this sample may be what is lost
                group.problems.append(member.reason)
                yield group.close(path, seen)
            return
        if group is not None and group.key != key:
            yield group.close(path, seen)
            group = None
        if not suffix and member.problem is None:
            continue
        if group is None:
            group = _Group(key=key, offset=member.offset)
        group.add(suffix, member, max_member_bytes, read_images)
    if group is not None:
        yield group.close(path, seen)


@dataclass(slots=True)
class _Group:
    """The members of one sample, as far as they have been read."""

    key: str
    offset: int
    image: bytes | None = None
    image_suffix: str = ""
    image_offset: int = 0
    image_size: int = 0
    label: int | None = None
    passed_over: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, suffix: str, member: TarMember, max_member_bytes: int, read_images: bool) -> None:
        if member.problem is not None:
            self.problems.append(member.problem)
        elif suffix in IMAGE_SUFFIXES:
            if self.image_suffix:
                self.problems.append(f"two images, .{self.image_suffix} and .{suffix}")
                return
            self.image_suffix = suffix
            if member.size > max_member_bytes:
                self.problems.append(
                    f".{suffix} of {member.size} bytes is above the limit of {max_member_bytes}"
                )
            elif member.size == 0:
                self.problems.append(f".{suffix} is empty")
            else:
                self.image_offset, self.image_size = member.data_offset, member.size
                self.image = member.read() if read_images else b""
        elif suffix == "cls":
            self._add_label(member)
        else:
            self.passed_over.append(suffix)

    def _add_label(self, member: TarMember) -> None:
        if self.label is not None:
            self.problems.append("two .cls members")
            return
        text = member.read() if member.size <= _MAX_LABEL_BYTES else b""
        match = _LABEL.fullmatch(text)
        if match is None:
            found = repr(text)[1:] if text else f"{member.size} bytes"
            self.problems.append(f".cls holds {found}, not a class number such as 3")
            return
        self.label = int(match[1])
        if self.label >= MAX_CLASSES:
            self.problems.append(
                f".cls holds {self.label}; class numbers count from 0 to {MAX_CLASSES - 1}"
            )

    def close(self, shard: Path, seen: set[str]) -> Sample | BadSample:
        if self.key in seen:
            self.problems.append("this key appeared before in this shard")
        seen.add(self.key)
        if not self.image_suffix and not self.problems:
            endings = _some([f".{suffix}" for suffix in self.passed_over], ", ") or "a .cls"
            self.problems.append(
                f"no image: it has {endings}, an image is one of .{' .'.join(IMAGE_SUFFIXES)}"
            )
        if self.problems or self.image is None:
            return BadSample(shard, self.offset, self.key, _some(self.problems, "; "))
        return Sample(
            shard=shard,
            offset=self.offset,
            key=self.key,
            suffix=self.image_suffix,
            image=self.image,
            label=self.label,
            image_offset=self.image_offset,
            image_size=self.image_size,
            passed_over=tuple(self.passed_over),
        )


def _some(words: list[str], separator: str) -> str:
    """Join words, each once, the first few and how many more there are."""
    distinct = list(dict.fromkeys(words))
    more = len(distinct) - _MAX_NAMED
    return separator.join(distinct[:_MAX_NAMED] + ([f"{more} more"] if more > 0 else []))


def _split_name(name: str) -> tuple[str, str]:
    match = _KEY_AND_SUFFIX.match(name)
    if match is None or match[1].endswith("/"):  # a directory or a hidden file
        return name, ""
    return match[1], match[2].lower()


def expand_braces(pattern: str) -> list[str]:
    """Write out every `{000000..000003}` and `{a,b}` of a pattern.

    Raises:
        DataError: a range runs backwards, or they are too many.
    """
    done: list[str] = []
    todo = [pattern]
    while todo:
        one = todo.pop()
        if match := _RANGE.search(one):
            first, last = match[1], match[2]
            if int(last) < int(first):
                raise DataError(f"shards: {pattern}: {match[0]} runs backwards")
            if int(last) - int(first) >= _MAX_BRACE_PATHS:
                raise DataError(f"shards: {pattern}: more than {_MAX_BRACE_PATHS} paths")
            values = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        elif match := _CHOICE.search(one):
            values = match[1].split(",")
        else:
            done.append(one)
            continue
        todo.extend(one[: match.start()] + value + one[match.end() :] for value in values)
        if len(todo) + len(done) > _MAX_BRACE_PATHS:
            raise DataError(f"shards: {pattern}: more than {_MAX_BRACE_PATHS} paths")
    return done


def matching_files(pattern: str) -> list[Path]:
    """List the files that a pattern of `*`, `?`, `[...]` and `**` matches.

    Raises:
        DataError: there are none, or it is a folder.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError(
            f"shards: {pattern} is a folder; name its files, such as {path / 'train-*.tar'}"
        )
    if not any(character in pattern for character in "*?["):
        raise DataError(f"shards: {pattern}: no such file; `python -m data pack` writes shards")
    root, parts = Path(path.anchor), path.parts[1:] if path.anchor else path.parts
    matches = [match for match in root.glob(str(Path(*parts))) if match.is_file()]
    if not matches:
        raise DataError(
            f"shards: {pattern} matches no file; `python -m data pack` writes shards "
            "named train-000000.tar and so on"
        )
    return matches
