"""Where labels come from that are there with the images: a file, names, or a function of theirs.

Shapes: N images of a store, C channels, H height, W width.
"""

import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from data.indexed_store import IndexedStore
from data.label_file import read_label_file
from data.progress import Progress
from data.shard_index import open_index
from data.shards import expand_shards
from data.store import ResidentStore, memory_of
from training.errors import InputError
from training.names import FunctionName

Value = int | float | str
Values = list[Value | None]
"""One for each image of a store; None where it has no label."""

_AT_ONCE = 256


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardNames(_Source):
    """The name of the shard that an image lies in, such as train-000003."""

    kind: Literal["shard"] = "shard"

    @property
    def origin(self) -> str:
        """Where the values come from, in words."""
        return "names of shards"


class Folders(_Source):
    """The folder of an image's key: cats of cats/0001."""

    kind: Literal["folder"] = "folder"

    @property
    def origin(self) -> str:
        """Where the values come from, in words."""
        return "folders of keys"


class Column(_Source):
    """A column of a file that names images by their keys."""

    kind: Literal["column"] = "column"
    file: str = Field(
        "labels.csv",
        description=".csv with the columns key and others, or .json: {key: value} or "
        "{key: {column: value}}",
    )
    column: str | None = Field(None, description="its name; null: the only one there is")

    @property
    def origin(self) -> str:
        """Where the values come from, in words."""
        return f"column {self.column or 'label'} of {self.file}"


class Function(_Source):
    """What a function of your own says of each image, called once.

    It is given the image, uint8 [C, H, W], and its key, and returns a number or a text, or None
    for no label. Its module is imported since the config names it; nothing in the data can.
    """

    kind: Literal["function"] = "function"
    function: FunctionName = Field("heuristics:label", description="MODULE:NAME")

    @property
    def origin(self) -> str:
        """Where the values come from, in words."""
        return f"function {self.function}"


LabelSource = Annotated[ShardNames | Folders | Column | Function, Field(discriminator="kind")]


def read_values(
    source: LabelSource,
    store: ResidentStore | IndexedStore,
    shards: str | Sequence[str],
    cache: Path,
    *,
    key: str,
) -> Values:
    """Return the label of each image.

    Args:
        shards: where the images of `store` are.
        cache: folder where what functions say is kept.
        key: of the label in the config, for messages.
    Raises:
        InputError, DataError: a file, column or function that is not there, or a function that
            fails; names the key, and the sample where it is about one; one line.
    """
    match source:
        case ShardNames():
            return [*_shard_of_each(store, shards)]
        case Folders():
            return _folders(keys_of(store), key)
        case Column():
            return _column(source, keys_of(store), key)
        case Function():
            return _said(source.function, store, cache, key)


def keys_of(store: ResidentStore | IndexedStore) -> list[str]:
    """Return the key of each image of a store."""
    return store.images.index.keys if isinstance(store, IndexedStore) else store.keys


def _folders(names: Sequence[str], key: str) -> Values:
    folders: Values = [name.rpartition("/")[0] or None for name in names]
    if not any(folders):
        raise InputError(
            f"{key}.source: no key of data.shards is in a folder, the first: {names[0]}; "
            "python -m data pack numbers images and keeps no folders: take kind column or function"
        )
    return folders


def _shard_of_each(
    store: ResidentStore | IndexedStore, shards: str | Sequence[str]
) -> Sequence[str]:
    paths = expand_shards(shards)
    if isinstance(store, IndexedStore):
        index = store.images.index
    else:
        index = open_index(paths, memory_of(paths))
    names = [path.stem for path in index.shards]
    everywhere = zip(index.keys, index.shard.tolist(), strict=True)
    found = []
    for key in keys_of(store):
        # In the order of the shards; images that do not decode are not in the store.
        found.append(next(names[shard] for known, shard in everywhere if known == key))
    return found


def _column(source: Column, keys: Sequence[str], key: str) -> Values:
    path = Path(source.file)
    if path.suffix == ".json":
        return _json_column(path, source.column, keys, key)
    file = read_label_file(path, may_be_empty=True)
    column = source.column or (file.columns[0] if len(file.columns) == 1 else None)
    if column not in file.columns:
        raise InputError(
            f"{key}.source.column: found {source.column!r}; {path} has the columns "
            f"{', '.join(file.columns)} beside key"
        )
    place = file.columns.index(column)
    only = replace(file, columns=(column,), cells=tuple((row[place],) for row in file.cells))
    values: Values = [None] * len(keys)
    for row, line in zip(*only.rows_of(keys), strict=True):
        values[row] = only.cells[line][0] or None
    return values


def _json_column(path: Path, column: str | None, keys: Sequence[str], key: str) -> Values:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no JSON"
        raise InputError(
            f"{key}.source.file: {path}: {reason}; give {{key: value}} or "
            "{key: {column: value}}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{key}.source.file: {path}: is no mapping; give {{key: value}}")
    values: Values = []
    for name in keys:
        value = content.get(name)
        if isinstance(value, dict):
            if column is None and len(value) != 1:
                raise InputError(
                    f"{key}.source.column: found null; {path} has the columns "
                    f"{', '.join(map(str, value))} for the key {name}"
                )
            value = next(iter(value.values())) if column is None else value.get(column)
        elif column is not None and name in content:
            raise InputError(
                f"{key}.source.column: found {column!r}; {path} has one value for the key {name}; "
                "leave column out"
            )
        if value is not None and not _is_value(value):
            raise InputError(
                f"{key}.source.file: {path}, key {name}: found {json.dumps(value)}, which is "
                "neither a finite number nor a text"
            )
        values.append(value)
    if column is not None and all(value is None for value in values):
        raise InputError(
            f"{key}.source.column: {path} has no value in {column!r} for any image of data.shards"
        )
    return values


def _said(name: str, store: ResidentStore | IndexedStore, cache: Path, key: str) -> Values:
    """Return what a function says of each image, from the cache where it was asked before."""
    function, source = _imported(name, key)
    where = f"{key}.source.function: {name}"
    identity = json.dumps([name, hashlib.sha256(source).hexdigest(), store.fingerprint])
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    if file.is_file():
        known: Values = json.loads(file.read_text(encoding="utf-8"))
        return known
    values: Values = []
    keys = keys_of(store)
    with Progress("labelling images", len(store)) as progress:
        for start in range(0, len(store), _AT_ONCE):
            images = store.images[start : start + _AT_ONCE].numpy()
            for image, sample in zip(images, keys[start : start + _AT_ONCE], strict=True):
                values.append(_asked(function, image.copy(), sample, where))
                progress.step()
    cache.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(file)
    return values


def _asked(
    function: Callable[[np.ndarray, str], Any], image: np.ndarray, sample: str, where: str
) -> Value | None:
    try:
        value = function(image, sample)
    except (Exception, SystemExit) as error:  # the user's to know of which sample it is
        said = " ".join(str(error).split())
        raise InputError(
            f"{where}: raised {type(error).__name__}: {said}, for the sample {sample}"
        ) from error
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if value is not None and not _is_value(value):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        found = _shown_number(value) if is_number else type(value).__name__
        raise InputError(
            f"{where}: returned {found} for the sample {sample}; return an int, a finite float, a "
            "str, or None for no label"
        )
    return value


def _is_value(value: object) -> bool:
    """Whether it may be a label: a text or a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, Value):
        return False
    return isinstance(value, str) or abs(value) <= sys.float_info.max


def _shown_number(value: float) -> str:
    """A number that no label may be: one of Python's ints may be larger than any float."""
    return f"a number beyond {sys.float_info.max:.1e}" if isinstance(value, int) else str(value)


def _imported(name: str, key: str) -> tuple[Callable[[np.ndarray, str], Any], bytes]:
    """Return a function, and the source of its module."""
    where = f"{key}.source.function: found {name!r}"
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script leaves out the folder that it is called in
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        said = " ".join(str(error).split())
        raise InputError(f"{where}, whose module cannot be imported: {said}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(f"{where}, but {module_name} has no function {attribute}")
    try:
        file = inspect.getsourcefile(module)
    except TypeError:  # built into the interpreter
        file = None
    if file is None:
        raise InputError(f"{where}, whose module has no source file; give a function of a .py file")
    return function, Path(file).read_bytes()
