"""The packed sets below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from data.dataset import DATASET_FILE, DatasetInfo, read_dataset_info
from data.errors import DataError


def packed_sets(folder: Path) -> Iterator[tuple[Path, DatasetInfo | DataError]]:
    """Yield the folders of packed sets, in the order of their paths, and what each holds.

    Hidden folders are passed over, and so is what lies inside a set.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `python -m data pack` makes packed sets")
    for name, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        if DATASET_FILE not in files:
            continue
        folders.clear()
        try:
            info = read_dataset_info(Path(name))
        except DataError as error:
            yield Path(name), error
        else:
            assert info is not None
            yield Path(name), info


def bytes_of(folder: Path, info: DatasetInfo) -> int:
    """Return the bytes of a set's shards, as far as they are there."""
    paths = [folder / name for names in info.shards.values() for name in names]
    return sum(path.stat().st_size for path in paths if path.is_file())
