"""Images from Parquet files as Hugging Face writes them, read by pyarrow a few rows at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import MAX_CLASSES
from data.encoded_images import MAX_FILE_BYTES, EncodedImage, EncodedImages
from data.errors import DataError, cause, printable
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

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_NO_LABEL = -1  # how Hugging Face marks images whose labels are withheld
_ROWS_AT_ONCE = 64
_MAX_ROW_GROUP_BYTES = 2**32
_MAX_METADATA_BYTES = 2**26
_MAX_NAMED, _LONGEST_SHOWN = 8, 80
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


def is_parquet_folder(folder: Path) -> bool:
    """Whether `folder`, or `data/` in it, holds Parquet files and no images beside them."""
    return bool(_files_in(folder)) and next(images_below(folder), None) is None


class ParquetSource:
    """A Parquet file, a folder of them, or one with them in `data/`.

    A column `image` or `img` holds encoded images, as binary or as a struct with `bytes`, and
    `label`, `labels` or `fine_label` integers, if there are any; -1 is no label. Class names are
    those of the schema's Hugging Face metadata. A file is of the split that its name tells.
    """

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        about = read_about(path) if path.is_dir() else About()
        paths = _files_in(path) if path.is_dir() else [path]
        self._pyarrow = _import_pyarrow(paths[0])
        self._files = files_by_split(paths)
        named = path.resolve().name if path.is_dir() else name_without_split(path)
        self.name = about.name or named
        self.source = about.source or f"Parquet files of {self.name}"
        self.licence = about.licence
        self._names: list[str] | None = None
        self._labels: dict[str, set[int]] = {}
        self._encoded = EncodedImages(self._entries, list(self._files), size=size)
        self.counts = self._encoded.counts
        self.digest = self._encoded.digest
        labels = {split: np.array(sorted(found)) for split, found in self._labels.items()}
        self.classes = class_names(labels, about, str(path), self._names, "its metadata")

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, images with unreadable headers first, scaled to the size asked for."""
        return self._encoded.images(split)

    def _entries(self, split: str) -> Iterator[EncodedImage | UnreadableImage]:
        number = 0
        for path in self._files[split]:
            for row, (data, label) in enumerate(self._rows(path)):
                origin = printable(f"{path} row {row}")
                number += 1
                if label is not None:
                    if not 0 <= label < MAX_CLASSES:
                        raise DataError(
                            f"{origin}: label {label}; classes count from 0 to {MAX_CLASSES - 1}"
                        )
                    self._labels.setdefault(split, set()).add(label)
                if not data or len(data) > MAX_FILE_BYTES:
                    why = "there are no bytes of an image" if not data else "above 2^28 bytes"
                    yield UnreadableImage(origin, why)
                    continue
                yield EncodedImage(origin, f"{split}/{number}", label, data, _suffix(data))

    def _rows(self, path: Path) -> Iterator[tuple[bytes | None, int | None]]:
        try:
            with self._pyarrow.parquet.ParquetFile(
                path,
                pre_buffer=False,
                thrift_string_size_limit=_MAX_METADATA_BYTES,
                thrift_container_size_limit=_MAX_METADATA_BYTES,
            ) as file:
                image, label = self._columns(path, file)
                for group in range(file.metadata.num_row_groups):
                    group_bytes = file.metadata.row_group(group).total_byte_size
                    if group_bytes > _MAX_ROW_GROUP_BYTES:
                        raise DataError(
                            f"{path}: row group {group} claims {group_bytes} bytes; write it with "
                            "fewer rows in a group"
                        )
                    batches = file.iter_batches(
                        _ROWS_AT_ONCE,
                        row_groups=[group],
                        columns=[name for name in (image, label) if name],
                        use_threads=False,
                    )
                    for batch in batches:
                        yield from self._rows_of(batch, image, label)
        except DataError:
            raise
        except (self._pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read as Parquet: {cause(error)}; get it again"
            ) from error

    def _rows_of(
        self, batch: Any, image: str, label: str | None
    ) -> Iterator[tuple[bytes | None, int | None]]:
        images = batch.column(image)
        if self._pyarrow.types.is_struct(images.type):
            images = self._pyarrow.compute.struct_field(images, "bytes")
        labels = batch.column(label) if label else None
        for row in range(batch.num_rows):
            found = labels[row].as_py() if labels is not None else None
            yield images[row].as_py(), None if found == _NO_LABEL else found

    def _columns(self, path: Path, file: Any) -> tuple[str, str | None]:
        types, schema = self._pyarrow.types, file.schema_arrow
        image = next((name for name in _IMAGE_COLUMNS if name in schema.names), None)
        label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
        if image is None:
            held = ", ".join(printable(name[:_LONGEST_SHOWN]) for name in schema.names[:_MAX_NAMED])
            raise DataError(
                f"{path}: has the columns {held}; images are in one named "
                f"{' or '.join(_IMAGE_COLUMNS)}"
            )
        kind = schema.field(image).type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (types.is_binary(kind) or types.is_large_binary(kind)):
            raise DataError(
                f"{path}: column {image} is {_kind(schema.field(image))}; encoded images "
                "are binary, or a struct with binary bytes"
            )
        if label is not None and not types.is_integer(schema.field(label).type):
            raise DataError(
                f"{path}: column {label} is {_kind(schema.field(label))}; labels are integers"
            )
        if label is not None and self._names is None:
            self._names = _class_label_names(schema.metadata or {}, label)
        return image, label


def _import_pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: needs pyarrow; pip install -e '.[parquet]'") from error
    return pyarrow


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for root in (folder, folder / "data")
        for path in root.glob("*.parquet")
        if path.is_file() and not path.name.startswith(".")
    )


def _class_label_names(metadata: dict[bytes, bytes], label: str) -> list[str] | None:
    """The names of a column's classes in Hugging Face's metadata, as far as they make sense."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else None


def _kind(field: Any) -> str:
    return printable(str(field.type)[:_LONGEST_SHOWN])


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "")
