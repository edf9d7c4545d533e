"""Where images to be packed come from: what every source offers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.dataset import MAX_CLASSES
from data.errors import DataError

ABOUT_FILE = "about.json"
SPLITS = ("train", "test")
MAX_LABELS = 2**27
"""Labels are held in memory, images are not."""


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

    `origin` names it in messages, `image` is uint8 [C, H, W], and `original` holds the bytes it was
    decoded from, where they may stand in a shard as they are, with `suffix`, their ending.
    """

    origin: str
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
    labels: dict[str, npt.NDArray[np.int64]], about: About, where: str
) -> list[str] | None:
    """Names by label: those of `about`, else the numbers themselves; None without labels.

    Raises:
        DataError: a label is above all that are allowed, or has no name.
    """
    if not labels:
        return None
    num_classes = max(int(values.max(initial=-1)) for values in labels.values()) + 1
    if num_classes > MAX_CLASSES:
        raise DataError(
            f"{where}: label {num_classes - 1}; class numbers count from 0 to {MAX_CLASSES - 1}"
        )
    if about.classes is None:
        return [str(label) for label in range(num_classes)]
    if len(about.classes) < num_classes:
        raise DataError(
            f"{where}: label {num_classes - 1} has no name, {ABOUT_FILE} names "
            f"{len(about.classes)} classes"
        )
    return about.classes


def file_sha256(path: Path) -> str:
    """sha256 of a file's contents, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
