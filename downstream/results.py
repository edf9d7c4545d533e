"""Rows of a study and the file that holds them, `results.jsonl`: one JSON object on a line."""

import dataclasses
import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from downstream.arms import Arm
from downstream.heads.problems import Inference

RESULTS = "results.jsonl"

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
        class_counts: how many of the labels are of each class.
        along: of an arm that trains its encoder, as it learnt from all labels: steps taken and
            accuracy on some of the test images.
        ece: expected calibration error, a fraction in [0, 1].
        class_accuracies: accuracy on the test images of each class; None: there are none.
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
    """Read all rows; none where there is no file. A last line that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [row(**json.loads(line)) for line in lines if line.endswith("\n")]


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
        text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
