"""Where images to be packed come from: what every source offers."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.dataset import MAX_CLASSES
from data.errors import DataError, cause, printable

ABOUT_FILE = "about.json"
SPLITS = ("train", "val", "test", "unlabeled")
MAX_LABELS = 2**27
"""Labels are held in memory, images are not."""
_ALSO = {"val": "validation"}
_WORDS = re.compile(r"[A-Za-z]+")
_MAX_NAMES_BYTES = 2**16
_LONGEST_SHOWN = 80


class About(BaseModel):
    """What a source's files cannot say themselves; read from `about.json` beside them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, description="null: the folder's or file's name")
    source: str | None = Field(default=None, description="where the images come from, in words")
    licence: str = Field(default="not stated", description="the images' licence, in words")
    classes: list[str] | None = Field(default=None, description="class names by label")


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image to be packed.

    `origin` names it in messages, `name` inside its source, wherever that lies. `image` is uint8
    [C, H, W], and `original` holds the bytes it was decoded from, where they may stand in a shard
    as they are, with `suffix`, their ending.
    """

    origin: str
    name: str
    label: int | None
    image: npt.NDArray[np.uint8]
    original: bytes | None = None
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """An image that does not decode."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


class Source(Protocol):
    """Images in splits, read one after the other, never all at once."""

    @property
    def name(self) -> str:
        """Short, such as `fashion-mnist-mini`."""

    @property
    def source(self) -> str:
        """Where the images come from, in words."""

    @property
    def licence(self) -> str:
        """The images' licence, in words."""

    @property
    def classes(self) -> list[str] | None:
        """Class names by label; None where there are no labels."""

    @property
    def counts(self) -> dict[str, int]:
        """Images per split, `train` first."""

    @property
    def digest(self) -> str:
        """sha256 of the files' contents; it depends on neither time nor place."""

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, always in the same order."""


def read_about(folder: Path) -> About:
    """Read `about.json` in `folder`; empty where there is none.

    Raises:
        DataError: the file has unknown keys or values of a wrong kind.
    """
    path = folder / ABOUT_FILE
    if not path.is_file():
        return About()
    try:
        return About.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: {f'key {key}: ' if key else ''}{first['msg']}; "
            f"keys are {', '.join(About.model_fields)}"
        ) from error


def class_names(
    labels: dict[str, npt.NDArray[np.int64]],
    about: About,
    where: str,
    names: list[str] | None = None,
    names_file: str = ABOUT_FILE,
) -> list[str] | None:
    """Names by label; None without labels.

    Args:
        labels: class numbers [N] per split.
        about: its classes come first.
        where: the source, for messages.
        names: those that the source's own `names_file` tells, taken next; without either, a class
            is called by its number.
    Raises:
        DataError: a label is above all that are allowed, or has no name, or one that cannot be
            printed.
    """
    if not labels:
        return None
    num_classes = max(int(values.max(initial=-1)) for values in labels.values()) + 1
    if num_classes > MAX_CLASSES:
        raise DataError(
            f"{where}: label {num_classes - 1}; class numbers count from 0 to {MAX_CLASSES - 1}"
        )
    known = about.classes or names
    if known is None:
        return [str(label) for label in range(num_classes)]
    if len(known) < num_classes:
        raise DataError(
            f"{where}: label {num_classes - 1} has no name, "
            f"{ABOUT_FILE if about.classes else names_file} names {len(known)} classes"
        )
    if odd := next((name for name in known if not name.isprintable()), None):
        raise DataError(
            f"{where}: the class name {printable(odd)[:_LONGEST_SHOWN]} has characters that cannot "
            "be printed; rename it"
        )
    return known


def read_class_names(path: Path) -> list[str] | None:
    """Read a text file with the name of a class in each line; None where there is none.

    Raises:
        DataError: it is above 64 KiB, or no text in UTF-8.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_NAMES_BYTES:
        raise DataError(f"{path}: above {_MAX_NAMES_BYTES} bytes; it holds a class name per line")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: no UTF-8: {cause(error)}; it holds a class name per line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def files_by_split(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files in their order by the split whose name is a word of theirs; `train` without such."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        words = {word.lower() for word in _WORDS.findall(path.stem)}
        named = (split for split in SPLITS if words & {split, _ALSO.get(split)})
        found.setdefault(next(named, SPLITS[0]), []).append(path)
    return {split: found[split] for split in SPLITS if split in found}


def name_without_split(path: Path) -> str:
    """The words of a file's name that name no split; its folder's name where none are left."""
    splits = {*SPLITS, *_ALSO.values(), "of"}
    words = [word for word in _WORDS.findall(path.stem) if word.lower() not in splits]
    return "-".join(words) or path.resolve().parent.name


def file_sha256(path: Path) -> str:
    """sha256 of a file's contents, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
