"""What a command is pointed at: a folder of shards, or patterns, as shards by split."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.dataset import DatasetInfo, read_dataset_info
from data.errors import DataError
from data.shards import expand_shards
from data.store import dataset_of

_SHARD_NUMBER = re.compile(r"[-_.]?\d+$")


def shards_by_name(shards: Iterable[Path]) -> dict[str, list[Path]]:
    """Return shards by what their names are before the number."""
    found: dict[str, list[Path]] = {}
    for path in shards:
        found.setdefault(_SHARD_NUMBER.sub("", path.stem) or path.stem, []).append(path)
    return found


def open_targets(targets: Sequence[str]) -> tuple[DatasetInfo | None, dict[str, list[Path]]]:
    """Return the shards of each split of one packed folder, or those that patterns name.

    Args:
        targets: one folder, or any number of paths and patterns.
    Returns:
        The `dataset.json` that lists all of them, if there is one, and the shards.
    Raises:
        DataError: there are no shards, or they are not all there.
    """
    folders = [Path(target) for target in targets if Path(target).is_dir()]
    if folders and len(targets) > 1:
        raise DataError(f"{folders[0]}: a folder is read alone; give one folder, or only files")
    if not folders:
        paths = expand_shards(list(targets))
        return dataset_of(paths), shards_by_name(paths)
    (folder,) = folders
    info = read_dataset_info(folder)
    if info is None:
        paths = sorted(folder.glob("*.tar"))
        if not paths:
            raise DataError(f"{folder}: holds no shards; `python -m data pack` writes them")
        return None, shards_by_name(paths)
    shards = {split: [folder / name for name in names] for split, names in info.shards.items()}
    for path in (path for paths in shards.values() for path in paths):
        if not path.is_file():
            raise DataError(f"{path}: missing; `python -m data verify {folder}` says what else is")
    return info, shards
