"""`dataset.json`: what a folder of packed shards holds."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from data.errors import DataError

DATASET_FILE = "dataset.json"
MAX_CLASSES = 2**20
"""A class number is below this: what has a row for each class must fit in memory."""

ShardName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.tar$")]


class DatasetInfo(BaseModel):
    """A packed set. It is written last: a folder without it is not a finished set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: str
    source: str = Field(description="where the images come from, in words")
    licence: str = Field(description="the images' licence, in words")
    labeled: bool = Field(description="every sample has a label")
    classes: list[str] | None = Field(description="class names by label; null without labels")
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="channels, height, width of every image"
    )
    counts: dict[str, int] = Field(description="samples per split")
    shards: dict[str, list[ShardName]] = Field(description="file names per split, in order")
    shard_counts: dict[ShardName, int] | None = Field(
        None, description="samples in each shard, by file name; null in older sets"
    )
    shard_bytes: dict[str, int] | None = Field(
        default=None, description="bytes of all shards, per split"
    )
    mean: list[float] | None = Field(
        default=None, description="of training pixels scaled to 0 .. 1, per channel"
    )
    std: list[float] | None = Field(
        default=None, description="standard deviation of these pixels, per channel"
    )
    fingerprint: str = Field(description="ContentHash of all samples, in order")
    fingerprints: dict[str, str] | None = Field(
        None, description="per split, what a store of it has for its own; null in older sets"
    )
    recipe: str = Field(description="sha256 of the packed files' contents and of pack's options")
    sha256: dict[ShardName, str] | None = Field(
        None, description="sha256 of each shard's bytes, by file name; null in older sets"
    )

    @model_validator(mode="after")
    def _splits_agree(self) -> "DatasetInfo":
        if set(self.counts) != set(self.shards):
            raise ValueError(f"counts has splits {list(self.counts)}, shards {list(self.shards)}")
        names = {name for of_split in self.shards.values() for name in of_split}
        if self.sha256 is not None and set(self.sha256) != names:
            raise ValueError("sha256 does not name the same files as shards")
        if self.shard_counts is not None and any(
            sum(self.shard_counts.get(name, 0) for name in self.shards[split]) != count
            for split, count in self.counts.items()
        ):
            raise ValueError("shard_counts does not add up to counts")
        return self


class ContentHash:
    """A sha256 over samples in order: split, key, label and decoded pixels.

    It depends on neither time, place, image compression nor on where one shard ends and the next
    begins.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, split: str, key: str, label: int | None, image: npt.NDArray[np.uint8]) -> None:
        """Add one sample; `image` is uint8 [C, H, W]."""
        header = json.dumps([split, key, label, list(image.shape)])
        self._hash.update(header.encode() + b"\n")
        self._hash.update(np.ascontiguousarray(image).data)

    def hexdigest(self) -> str:
        """The hash of everything added so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()


def read_dataset_info(folder: Path) -> DatasetInfo | None:
    """Read `dataset.json` in `folder`; None where there is none.

    Raises:
        DataError: the file is there but is not a description of a packed set.
    """
    path = Path(folder) / DATASET_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_dataset_info(text, str(path))


def parse_dataset_info(text: bytes, label: str) -> DatasetInfo:
    """Read the contents of a `dataset.json` that is called `label` in messages.

    Raises:
        DataError: they are not a description of a packed set.
    """
    try:
        return DatasetInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"key {key}: " if key else ""
        raise DataError(
            f"{label}: {where}{first['msg']}; pack the set again with `python -m data pack`"
        ) from error


def write_dataset_info(folder: Path, info: DatasetInfo) -> Path:
    """Write `dataset.json` in `folder` in one piece and return its path."""
    path = folder / DATASET_FILE
    temporary = path.with_name(f".{DATASET_FILE}.{os.getpid()}")
    temporary.write_text(json.dumps(info.model_dump(mode="json"), indent=2) + "\n", "utf-8")
    temporary.replace(path)
    return path
