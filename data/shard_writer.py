"""Writing shards: samples into numbered tar files whose bytes depend on the samples alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from data.shard_size import ShardSize
from data.tar_writer import BLOCK, RECORD, TarWriter


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, counted from 0."""
    return f"{split}-{number:06d}.tar"


def add_sample(tar: TarWriter, key: str, suffix: str, image: bytes, label: int | None) -> None:
    """Append `key.suffix`, and `key.cls` where there is a label."""
    for name, data in _members(key, suffix, image, label):
        tar.add(name, data)


class ShardWriter:
    """Writes `SPLIT-000000.tar` and so on into a folder, of a size each."""

    def __init__(
        self,
        folder: Path,
        split: str,
        shard_size: ShardSize,
        *,
        finished: Sequence[str] = (),
        on_finished: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`finished` are the first shards, there already; others are told once they are whole."""
        self.names: list[str] = list(finished)
        self._on_finished = on_finished
        self._folder = folder
        self._split = split
        self._shard_size = shard_size
        self._in_shard = 0
        self._tar: TarWriter | None = None

    def add(self, key: str, suffix: str, image: bytes, label: int | None) -> None:
        """Append one sample, in the next shard where this one is full."""
        members = _members(key, suffix, image, label)
        if self._tar is None or self._is_full(self._tar, [data for _, data in members]):
            self._tar = self._open_next()
        for name, data in members:
            self._tar.add(name, data)
        self._in_shard += 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()
        elif self._tar is not None:
            self._tar.abandon()

    def _is_full(self, tar: TarWriter, to_come: list[bytes]) -> bool:
        if self._shard_size.samples is not None:
            return self._in_shard == self._shard_size.samples
        assert self._shard_size.bytes is not None
        blocks = sum(1 + -(-len(data) // BLOCK) for data in to_come) + 2  # 2 end the archive
        whole = -(-(tar.offset + blocks * BLOCK) // RECORD) * RECORD
        return whole > self._shard_size.bytes

    def _open_next(self) -> TarWriter:
        self._finish()
        self.names.append(shard_name(self._split, len(self.names)))
        self._in_shard = 0
        return TarWriter(self._folder / self.names[-1])

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._on_finished(self.names[-1])


def _members(key: str, suffix: str, image: bytes, label: int | None) -> list[tuple[str, bytes]]:
    cls = [] if label is None else [(f"{key}.cls", str(label).encode())]
    return [(f"{key}.{suffix}", image), *cls]
