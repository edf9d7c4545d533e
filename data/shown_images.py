"""A few images of some shards, spread evenly over them or over their classes, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decode import decode_image
from data.errors import DataError
from data.shard_index import NO_LABEL, open_index
from data.shards import IMAGE_SUFFIXES
from data.spread import evenly_spread


@dataclass(frozen=True, slots=True)
class ShownImage:
    """One image, uint8 [C, H, W], and what is said of it."""

    key: str
    label: int | None
    image: npt.NDArray[np.uint8]


def read_some(shards: Sequence[Path], count: int, *, by_class: bool) -> list[ShownImage]:
    """Decode `count` images of shards, or of each class, in the order of their classes.

    Raises:
        DataError: a shard cannot be read, an image does not decode, or none has a label where
            classes are wanted.
    """
    index = open_index(shards, None)
    if not len(index):
        raise DataError(f"none of the samples can be used, the first: {index.bad[0]}")
    if by_class:
        labels = sorted(set(index.label.tolist()) - {NO_LABEL})
        if not labels:
            raise DataError(f"{shards[0]}: no image has a label; leave --classes out")
        of_class = (np.flatnonzero(index.label == label) for label in labels)
        rows = np.concatenate([own[evenly_spread(len(own), count)] for own in of_class])
    else:
        rows = evenly_spread(len(index), count)
    shown = []
    for row in rows.tolist():
        with index.shards[int(index.shard[row])].open("rb") as file:
            file.seek(int(index.offset[row]))
            data = file.read(int(index.size[row]))
        try:
            image = decode_image(data, IMAGE_SUFFIXES[int(index.suffix[row])])
        except DataError as error:
            raise DataError(str(index.named(row, str(error)))) from None
        label = int(index.label[row])
        shown.append(ShownImage(index.keys[row], None if label == NO_LABEL else label, image))
    return shown
