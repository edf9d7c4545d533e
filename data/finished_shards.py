"""Shards that are finished while others of a set are not: what a killed packing goes on from.

A file beside them holds the set's recipe and, as soon as a shard is whole, its sha256 and name.
"""

from collections.abc import Iterator
from pathlib import Path

from data.shard_writer import shard_name
from data.shards import Sample, iter_samples
from data.sources import file_sha256

_FILE = "finished"


class FinishedShards:
    """The finished shards in a folder in which one set is being written."""

    def __init__(self, folder: Path, recipe: str) -> None:
        """Remove all from `folder` but what was finished by this recipe and is unchanged."""
        self._folder = folder
        self._file = folder / _FILE
        self._hashes = self._read(recipe)
        for leftover in list(folder.iterdir()):
            known = self._hashes.get(leftover.name)
            if known is None or file_sha256(leftover) != known:
                leftover.unlink()
        lines = [recipe, *(f"{self._hashes[path.name]} {path.name}" for path in folder.iterdir())]
        self._file.write_text("\n".join(lines) + "\n", "utf-8")

    def names(self, split: str) -> list[str]:
        """Those of a split, as far as they follow each other from the first on."""
        names: list[str] = []
        while (name := shard_name(split, len(names))) and (self._folder / name).is_file():
            names.append(name)
        return names

    def samples(self, split: str) -> Iterator[Sample]:
        """The samples of those, in order."""
        for name in self.names(split):
            for sample in iter_samples(self._folder / name):
                assert isinstance(sample, Sample)  # its bytes are those that were written
                yield sample

    def sha256(self, name: str) -> str:
        """Of a finished shard's bytes."""
        return self._hashes[name]

    def add(self, name: str) -> None:
        """Note that a shard is finished."""
        self._hashes[name] = file_sha256(self._folder / name)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self._hashes[name]} {name}\n")

    def close(self) -> None:
        """Remove the notes: all shards are finished."""
        self._file.unlink()

    def _read(self, recipe: str) -> dict[str, str]:
        try:
            first, *lines = self._file.read_text("utf-8").splitlines()
        except (FileNotFoundError, ValueError):
            return {}
        pairs = (line.partition(" ") for line in lines)
        return {name: digest for digest, _, name in pairs} if first == recipe else {}
