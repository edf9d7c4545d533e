"""Features of any number of images as one file, .npz or .parquet, written in bounded memory.

Rows are first spooled to plain files, because an array's header and the width of its keys come
before its rows and are known only after the last.

Shapes: N images, B of them at a time, F features.
"""

import importlib.util
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from downstream.output_files import check_output_file
from training.errors import InputError

NO_LABEL = -1
ENDINGS = (".npz", ".parquet")
_BYTES_AT_ONCE = 2**23
_KEYS_AT_ONCE = 2**12


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a file of features can be written there.

    Raises:
        InputError: an unknown ending, a package that is missing, or something that is there.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"--out: found {path}; give a name that ends in {' or '.join(ENDINGS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            f"--out: found {path}, which needs pyarrow; pip install -e '.[parquet]', or give "
            "a name that ends in .npz"
        )
    check_output_file(path, overwrite=overwrite)


class EmbeddingFile:
    """Collects keys, labels and features, and writes them as one file when all are there.

    Used as a context: what it has collected lies in a hidden folder beside the file until then.

    Args:
        path: as `check_output` wants it; a file that is there is replaced at the end.
        width: F.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self.count = self.labelled = 0
        self._longest_key = 1

    def __enter__(self) -> "EmbeddingFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        self._folder = Path(folder)
        self._keys = self._spool("keys")
        self._labels = self._spool("labels")
        self._features = self._spool("features")
        return self

    def _spool(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("wb")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for spool in (self._keys, self._labels, self._features):
            with suppress(OSError):  # what no disk had room for
                spool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(
        self, keys: Sequence[str], labels: Sequence[int | None], features: NDArray[np.float32]
    ) -> None:
        """Add rows: keys without line breaks [B], labels [B] where known, features [B, F]."""
        self._keys.writelines(f"{key}\n".encode() for key in keys)
        numbers = [NO_LABEL if label is None else label for label in labels]
        self._labels.write(np.array(numbers, "<i8").tobytes())
        self._features.write(features.astype("<f4", copy=False).tobytes())
        self.count += len(keys)
        self.labelled += sum(label is not None for label in labels)
        self._longest_key = max(self._longest_key, *map(len, keys))

    def finish(self) -> None:
        """Write the file in one piece."""
        for spool in (self._keys, self._labels, self._features):
            spool.close()
        whole = self._folder / f"whole{self.path.suffix}"
        with whole.open("wb") as file:
            if self.path.suffix == ".npz":
                self._write_npz(file)
            else:
                self._write_parquet(file)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(self.path)

    def _write_npz(self, file: IO[bytes]) -> None:
        arrays = {"keys": f"<U{self._longest_key}", "labels": "<i8", "features": "<f4"}
        if not self.labelled:
            del arrays["labels"]
        with zipfile.ZipFile(file, "w") as archive:
            for name, dtype in arrays.items():
                shape = (self.count, self.width) if name == "features" else (self.count,)
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the same bytes every time
                member.external_attr = 0o644 << 16
                with archive.open(member, "w", force_zip64=True) as array:
                    write_array_header_1_0(array, header)
                    if name == "keys":
                        for keys in self._key_blocks(_KEYS_AT_ONCE):
                            array.write(np.array(keys, dtype).tobytes())
                    else:
                        with (self._folder / name).open("rb") as spool:
                            shutil.copyfileobj(spool, array, _BYTES_AT_ONCE)

    def _write_parquet(self, file: IO[bytes]) -> None:
        import pyarrow
        import pyarrow.parquet

        row = pyarrow.list_(pyarrow.float32(), self.width)
        columns: list[tuple[str, Any]] = [("key", pyarrow.string()), ("features", row)]
        if self.labelled:
            columns.insert(1, ("label", pyarrow.int64()))
        schema = pyarrow.schema(columns)
        at_once = max(1, _BYTES_AT_ONCE // (4 * self.width))
        with (
            (self._folder / "labels").open("rb") as labels_file,
            (self._folder / "features").open("rb") as features_file,
            pyarrow.parquet.ParquetWriter(file, schema) as writer,
        ):
            for keys in self._key_blocks(at_once):
                labels = np.frombuffer(labels_file.read(8 * len(keys)), "<i8")
                values = np.frombuffer(features_file.read(4 * self.width * len(keys)), "<f4")
                parts = {
                    "key": pyarrow.array(keys),
                    "label": pyarrow.array(labels, mask=labels == NO_LABEL),
                    "features": pyarrow.FixedSizeListArray.from_arrays(values, type=row),
                }
                table = pyarrow.table([parts[name] for name, _ in columns], schema=schema)
                writer.write_table(table)

    def _key_blocks(self, most: int) -> Iterator[list[str]]:
        with (self._folder / "keys").open(encoding="utf-8", newline="\n") as file:
            block: list[str] = []
            for line in file:
                block.append(line.removesuffix("\n"))
                if len(block) == most:
                    yield block
                    block = []
            if block:
                yield block
