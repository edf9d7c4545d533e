"""Rows of a study and the files that hold them: one JSON object on a line.

They lie in `results.jsonl`. Where several processes share a study, each appends to a part of its
own beside it, which no other process ever writes, so that nothing depends on locks; parts are
merged into `results.jsonl` afterwards.
"""

import dataclasses
import json
import os
import secrets
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from downstream.arms import Arm
from downstream.heads.problems import Inference

RESULTS = "results.jsonl"
PARTS = "results.part-*.jsonl"
"""Which files beside it are parts."""

Key = TypeVar("Key", bound=Hashable)


class RowKey(NamedTuple):
    """What a row is about. `seed` is that of the encoder's weights, fresh or pretrained."""

    arm: Arm
    budget: int
    draw: int
    seed: int


@dataclass(frozen=True)
class Row:
    """One fitted classifier and its scores on the test set.

    Fields:
        labels_used: labels that fitting and choosing have seen.
        accuracy, macro_f1: fractions in [0, 1]; nll: nats.
        seconds: wall-clock time of choosing, fitting and scoring; heads that are fitted together
            share their time equally.
        choices: what was chosen inside the labels, and by which scores.
        inference: whether the test images were seen, without labels, before they were scored.
        class_counts: how many of the labels say each class, the wrong ones of `label_noise` too.
        along: of an arm that trains its encoder, as it learnt from all labels: steps taken and
            accuracy on some of the test images.
        ece: expected calibration error, a fraction in [0, 1].
        class_accuracies: accuracy on the test images of each class; None: there are none.
        without_copies: accuracy on the test images that have no copy among those learned from;
            None: none has one, or those that have are left out of all other scores.
        with_copies: of a study that leaves them out, accuracy on all test images.
    """

    arm: Arm
    budget: int
    labels_used: int
    draw: int
    seed: int
    accuracy: float
    macro_f1: float
    nll: float
    seconds: float
    choices: dict[str, Any]
    # Rows of older studies lack these.
    inference: Inference = "inductive"
    class_counts: list[int] | None = None
    along: list[tuple[int, float]] | None = None
    ece: float | None = None
    class_accuracies: list[float | None] | None = None
    without_copies: float | None = None
    with_copies: float | None = None

    @property
    def key(self) -> RowKey:
        return RowKey(self.arm, self.budget, self.draw, self.seed)


class AnyRow(Protocol):
    """A row of some study: a dataclass whose values are fit for JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Any: ...


KeyedRow = TypeVar("KeyedRow", bound=AnyRow)


def read_rows(path: Path, row: type[KeyedRow]) -> list[KeyedRow]:
    """Read all rows, each once, those in parts beside the file too; none where there is no file.

    A last line that a kill cut off is left out.
    """
    found: dict[Any, KeyedRow] = {}
    for file in (path, *sorted(path.parent.glob(PARTS))):
        for one in read_file(file, row):
            found.setdefault(one.key, one)
    return list(found.values())


def read_file(path: Path, row: type[KeyedRow]) -> list[KeyedRow]:
    """Read the rows of one file, as `read_rows` does."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [row(**json.loads(line)) for line in lines if line.endswith("\n")]


def new_part(folder: Path) -> Path:
    """Return where a process may keep its rows: a file that is not there yet."""
    # Not by rank or process number: another attempt, or another machine, may have the same.
    return folder / PARTS.replace("*", secrets.token_hex(8))


def merge_parts(folder: Path, row: type[KeyedRow], order: Sequence[Hashable]) -> set[Any]:
    """Bring the rows of all parts into results.jsonl, in the order of their keys.

    Parts are removed once every row of `order` is there, and not before: a process that is not
    known of here may still be writing one. Without parts nothing is changed.

    Returns:
        The keys of all rows.
    """
    results, parts = folder / RESULTS, sorted(folder.glob(PARTS))
    rows = {found.key: found for found in read_rows(results, row)}
    if parts:
        places = {key: place for place, key in enumerate(order)}
        ordered = sorted(rows.values(), key=lambda one: places.get(one.key, len(places)))
        temporary = folder / f".{RESULTS}.{secrets.token_hex(8)}"
        with temporary.open("wb") as file:
            file.write(as_lines(ordered))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(results)
        if places.keys() <= rows.keys():
            for part in parts:
                part.unlink(missing_ok=True)
    return set(rows)


def as_lines(rows: Sequence[AnyRow]) -> bytes:
    """Return rows as they are written."""
    return "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows).encode()


class ResultsFile:
    """Appends rows, each batch on disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Open a file for appending and cut off a last line without end."""
        self._file = path.open("ab+")
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)

    def append(self, rows: Sequence[AnyRow]) -> None:
        """Write rows in one piece."""
        self._file.write(as_lines(rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
