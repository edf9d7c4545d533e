"""Labels in a CSV file: a line for each image, named by its key in the shards.

Its header is `key` and the names of one or more columns. Shapes: L lines, K columns.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import DataError

_KEY = "key"
_LABEL = "label"


@dataclass(frozen=True)
class LabelFile:
    """What a file of labels says.

    Fields:
        columns: names, K of them.
        keys: L of them, each once; lines: where in the file each stands, counted from 1.
        cells: L rows of K texts, none of them empty unless that was allowed.
    """

    path: Path
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    lines: tuple[int, ...]
    cells: tuple[tuple[str, ...], ...]

    def classes(self, known: Sequence[str] | None) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
        """Return class names, and the class of each line, int64 [L].

        Args:
            known: the names that the images have had; None: none. Where none of the file's labels
                is among them, it divides the images in a way of its own.
        Raises:
            DataError: another column than `label`, or a class that is not known beside some that
                are.
        """
        if self.columns != (_LABEL,):
            raise DataError(
                f"{self.path}: has the columns {', '.join(self.columns)} beside key; classes stand "
                "in one column, label (several columns are for multi_label and regression)"
            )
        found = sorted({row[0] for row in self.cells})
        names = tuple(known if known and not set(known).isdisjoint(found) else found)
        number = {name: place for place, name in enumerate(names)}

        def class_of(cell: str) -> int:
            if cell not in number:
                raise ValueError(f"is no class; the classes are {', '.join(names)}")
            return number[cell]

        return names, np.array(self._parsed(class_of), np.int64)[:, 0]

    def yes_or_no(self) -> npt.NDArray[np.float32]:
        """Return the labels of each line, 0 or 1, float32 [L, K].

        Raises:
            DataError: something other than 0 or 1.
        """

        def flag(cell: str) -> float:
            if cell not in ("0", "1"):
                raise ValueError("is neither 0 nor 1, as several labels of an image are")
            return float(cell)

        return np.array(self._parsed(flag), np.float32)

    def numbers(self) -> npt.NDArray[np.float32]:
        """Return the numbers of each line, float32 [L, K].

        Raises:
            DataError: something other than a finite number.
        """

        def number(cell: str) -> float:
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not math.isfinite(np.float32(value)):
                raise ValueError("is no finite number")
            return value

        return np.array(self._parsed(number), np.float32)

    def rows_of(self, keys: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return which rows of `keys` have a line, ascending, and the line of each, int64 both."""
        line = {key: place for place, key in enumerate(self.keys)}
        found = [(row, line[key]) for row, key in enumerate(keys) if key in line]
        rows = np.array(found, np.int64).reshape(-1, 2)
        return rows[:, 0], rows[:, 1]

    def check_known(
        self,
        keys: set[str],
        what: str = "keys are names in the shards up to the first dot, such as train-0000123",
    ) -> None:
        """Check that each line is of an image that there is; `what` says what a key is.

        Raises:
            DataError: naming the first line that is not.
        """
        for key, line in zip(self.keys, self.lines, strict=True):
            if key not in keys:
                raise DataError(f"{self.path} line {line}: no image has the key {key!r}; {what}")

    def _parsed(self, parse: Callable[[str], float]) -> list[list[float]]:
        parsed = []
        for line, key, row in zip(self.lines, self.keys, self.cells, strict=True):
            values = []
            for column, cell in zip(self.columns, row, strict=True):
                try:
                    values.append(parse(cell))
                except ValueError as error:
                    raise DataError(
                        f"{self.path} line {line}, key {key}, column {column}: {cell!r} {error}"
                    ) from None
            parsed.append(values)
        return parsed


def read_label_file(path: Path | str, *, may_be_empty: bool = False) -> LabelFile:
    """Read a CSV file of labels in UTF-8.

    Args:
        may_be_empty: whether cells beside the key may be empty, for what is not known.
    Raises:
        DataError: no such file, no CSV, no column `key` or none beside it, a column or key that
            stands twice, a line of another length, or an empty cell; one line that names it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a CSV file with the columns key,label")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            lines = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: is no CSV: {error}") from None
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not in UTF-8; save it as CSV in UTF-8") from None
    if header[:1] != [_KEY] or len(header) < 2 or len(set(header)) < len(header):
        raise DataError(
            f"{path} line 1: found the columns {','.join(header) or 'none'}; the first is to be "
            "called key, the others by names of their own, such as key,label"
        )
    if not lines:
        raise DataError(f"{path}: has a header and no line; give a line for each labelled image")
    first: dict[str, int] = {}
    for line, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"{path} line {line}: {len(row)} cells, the header has {len(header)}; give every "
                "line as many, quoted where one holds a comma"
            )
        if "" in (row[:1] if may_be_empty else row):
            column = header[row.index("")]
            raise DataError(
                f"{path} line {line}, key {row[0]}: nothing in column {column}; leave out images "
                "without a label"
            )
        if row[0] in first:
            raise DataError(
                f"{path} line {line}: the key {row[0]} stands in line {first[row[0]]}; name each "
                "image once"
            )
        first[row[0]] = line
    return LabelFile(
        path,
        tuple(header[1:]),
        tuple(first),
        tuple(first.values()),
        tuple(tuple(row[1:]) for _, row in lines),
    )
