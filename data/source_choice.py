"""Which source of images a word on the command line means."""

from collections.abc import Callable
from pathlib import Path

from data.bundled_sets import BUNDLED_SETS, open_bundled
from data.errors import DataError
from data.sources import Source
from data.sources_arrays import NpzSource
from data.sources_cifar import CifarSource, is_cifar_folder
from data.sources_folder import ImageFolderSource
from data.sources_idx import IdxSource, is_idx_folder
from data.sources_parquet import ParquetSource, is_parquet_folder
from data.sources_stl import StlSource, is_stl_folder
from data.sources_svhn import SvhnSource, is_svhn_folder
from data.sources_webdataset import WebDatasetSource, is_shard_folder
from data.sources_zip import ZipSource


def open_source(spec: str, *, size: int | None = None) -> Source:
    """Find out what `spec` is and open it.

    Args:
        spec: a bundled set's name, a file or a folder of one of the kinds in `docs/data.md`, or a
            pattern of tars.
        size: height and width of the images to be given, in pixels; None keeps their own.
    Raises:
        DataError: it is none of these, or its files do not fit together.
    """
    if spec in BUNDLED_SETS:
        return open_bundled(spec, size=size)
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, size)
    if path.suffix == ".tar":
        return WebDatasetSource(spec, size=size)
    if path.is_file() and path.suffix in _FILE_KINDS:
        return _FILE_KINDS[path.suffix](path, size)
    found = (
        f"a file that is not {', '.join(_FILE_KINDS)} or .tar"
        if path.exists()
        else ("no such file or folder")
    )
    raise DataError(
        f"{spec}: {found}; give {' or '.join(BUNDLED_SETS)}, a file {', '.join(_FILE_KINDS)} or "
        ".tar, a folder of images, or one of IDX, CIFAR, STL-10 or SVHN files"
    )


def _open_folder(folder: Path, size: int | None) -> Source:
    if is_idx_folder(folder):
        return IdxSource(folder, size=size)
    if is_cifar_folder(folder):
        return CifarSource(folder, size=size)
    if is_stl_folder(folder):
        return StlSource(folder, size=size)
    if is_svhn_folder(folder):
        return SvhnSource(folder, size=size)
    if is_shard_folder(folder):
        return WebDatasetSource(str(folder), size=size)
    if is_parquet_folder(folder):
        return ParquetSource(folder, size=size)
    return ImageFolderSource(folder, size=size)


_FILE_KINDS: dict[str, Callable[[Path, int | None], Source]] = {
    ".npz": lambda path, size: NpzSource(path, size=size),
    ".parquet": lambda path, size: ParquetSource(path, size=size),
    ".zip": lambda path, size: ZipSource(path, size=size),
}
