"""Images one by one from a folder, a file or shards, each with its name."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.decode import decode_image
from data.errors import DataError
from data.shards import BadSample, expand_shards, iter_samples
from data.sources_folder import SOURCE_FORMATS, images_below, is_image, read_image_file

Named = tuple[str, npt.NDArray[np.uint8] | str]
"""An image's name, and its pixels uint8 [C, H, W] or why there are none."""


def named_images(
    place: str, *, channels: int | None = None, size: int | None = None
) -> Iterator[Named]:
    """Yield all images of a folder, in the order of their paths, of one file, or of shards.

    Args:
        place: a folder, an image file, or a pattern of tars as for `expand_shards`.
        channels, size: what images are brought to, as by `decode_image`; None: as they are.
    Raises:
        DataError: there is nothing at the place.
    """
    path = Path(place)
    if path.is_dir():
        files = sorted(images_below(path))
        if not files:
            raise DataError(f"{place}: no images found in this folder; give one that holds images")
        for file in files:
            yield str(file.relative_to(path)), _read(file, channels, size)
    elif path.is_file() and is_image(path):
        yield path.name, _read(path, channels, size)
    else:
        for shard in expand_shards(place):
            for sample in iter_samples(shard):
                if isinstance(sample, BadSample):
                    yield sample.key or f"{shard.name} offset {sample.offset}", sample.reason
                else:
                    yield sample.key, _decoded(sample.image, sample.suffix, channels, size)


def _read(file: Path, channels: int | None, size: int | None) -> npt.NDArray[np.uint8] | str:
    data = read_image_file(file)
    return data if isinstance(data, str) else _decoded(data, file.suffix, channels, size)


def _decoded(
    data: bytes, suffix: str, channels: int | None, size: int | None
) -> npt.NDArray[np.uint8] | str:
    ending = suffix.removeprefix(".").lower()
    try:
        return decode_image(data, ending, channels=channels, size=size, formats=SOURCE_FORMATS)
    except DataError as error:
        return str(error)
