"""Rows of a study and the file that holds them, `results.jsonl`: one JSON object on a line."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from downstream.config import Arm

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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

    @property
    def key(self) -> RowKey:
        return RowKey(self.arm, self.budget, self.draw, self.seed)


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a label-efficiency study; none where there is no file."""
    return [Row(**line) for line in read_lines(path)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `ResultsFile`; a last one that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class ResultsFile:
    """Appends rows, each batch on disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Open a file for appending and cut off a last line without end."""
        self._file = path.open("ab+")
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)

    def append(self, rows: Sequence["DataclassInstance"]) -> None:
        """Write rows, which are dataclasses fit for JSON, in one piece."""
        text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
