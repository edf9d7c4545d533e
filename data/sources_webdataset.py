"""Images from WebDataset shards, to be packed anew: other shards, another size or encoding."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.dataset import DATASET_FILE, read_dataset_info
from data.encoded_images import EncodedImage, EncodedImages
from data.errors import DataError, printable
from data.shards import BadSample, expand_shards, iter_samples
from data.sources import (
    About,
    SourceImage,
    UnreadableImage,
    class_names,
    files_by_split,
    name_without_split,
    read_about,
)
from data.sources_folder import images_below


def is_shard_folder(folder: Path) -> bool:
    """Whether `folder` holds tars and no images beside them."""
    return any(folder.glob("*.tar")) and next(images_below(folder), None) is None


class WebDatasetSource:
    """A packed folder, a folder of tars, or the tars that a pattern names.

    Splits, class names and origin are those of `dataset.json`, where there is one; a pattern has
    the latter two of the set that its tars are all of. Else a shard is of the split whose name
    (`train`, `val`, `test`, `unlabeled`) is a word of its file's name, and of `train` where there
    is none. Samples keep their order and get new keys.
    """

    def __init__(self, spec: str, *, size: int | None = None) -> None:
        folder = Path(spec) if Path(spec).is_dir() else None
        info = read_dataset_info(folder) if folder else None
        about = About()
        if folder is not None and info is not None:
            about = About(
                name=info.name, source=info.source, licence=info.licence, classes=info.classes
            )
            self._shards = {
                split: [folder / name for name in names] for split, names in info.shards.items()
            }
            for shard in (shard for shards in self._shards.values() for shard in shards):
                if not shard.is_file():
                    raise DataError(f"{shard}: no such file, but {DATASET_FILE} lists it")
        elif folder is not None:
            about = read_about(folder)
            self._shards = files_by_split(sorted(folder.glob("*.tar")))
        else:
            found = expand_shards(spec)
            self._shards = files_by_split(found)
            about = _about_of_all(found)
        self.name = about.name or (
            folder.resolve().name
            if folder
            else name_without_split(next(iter(self._shards.values()))[0])
        )
        self.source = about.source or f"WebDataset shards of {self.name}"
        self.licence = about.licence
        self._labels: dict[str, set[int]] = {}
        self._encoded = EncodedImages(self._entries, list(self._shards), size=size)
        self.counts = self._encoded.counts
        self.digest = self._encoded.digest
        labels = {split: np.array(sorted(found)) for split, found in self._labels.items()}
        self.classes = class_names(labels, about, spec)

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, images with unreadable headers first, scaled to the size asked for."""
        return self._encoded.images(split)

    def _entries(self, split: str) -> Iterator[EncodedImage | UnreadableImage]:
        for shard in self._shards[split]:
            shown = printable(str(shard))
            for item in iter_samples(shard):
                if isinstance(item, BadSample):
                    key = f" key {item.key}" if item.key else ""
                    yield UnreadableImage(f"{shown} offset {item.offset}{key}", item.reason)
                    continue
                if item.label is not None:
                    self._labels.setdefault(split, set()).add(item.label)
                yield EncodedImage(
                    origin=f"{shown} offset {item.offset} key {item.key}",
                    name=f"{split}/{item.key}",
                    label=item.label,
                    data=item.image,
                    suffix=item.suffix,
                )


def _about_of_all(shards: list[Path]) -> About:
    """What is known of the packed set that all of these shards are of."""
    folders = {shard.parent for shard in shards}
    info = read_dataset_info(folders.pop()) if len(folders) == 1 else None
    if info is None or {shard.name for shard in shards} - {
        name for names in info.shards.values() for name in names
    }:
        return About()
    return About(source=info.source, licence=info.licence, classes=info.classes)
