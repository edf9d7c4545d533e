"""Which source of images a word on the command line means."""

import shlex
from collections.abc import Callable
from pathlib import Path

from data.archive_tar import open_folder_tar
from data.archive_zip import ZipArchive
from data.bundled_sets import BUNDLED_SETS, open_bundled
from data.errors import DataError
from data.label_file import LabelFile
from data.sources import Source
from data.sources_archive import ArchiveSource
from data.sources_arrays import NpySource, NpzSource
from data.sources_cifar import CifarSource, is_cifar_folder
from data.sources_folder import ImageFolderSource
from data.sources_idx import IdxSource, is_idx_folder
from data.sources_parquet import ParquetSource, is_parquet_folder
from data.sources_stl import StlSource, is_stl_folder
from data.sources_svhn import SvhnSource, is_svhn_folder
from data.sources_webdataset import WebDatasetSource, is_shard_folder


def open_source(spec: str, *, size: int | None = None, labels: LabelFile | None = None) -> Source:
    """Find out what `spec` is and open it.

    Args:
        spec: a bundled set's name, a file or a folder of one of the kinds in `docs/data.md`, or a
            pattern of tars.
        size: height and width of the images to be given, in pixels; None keeps their own.
        labels: classes of the images of a folder or archive, instead of subfolders.
    Raises:
        DataError: it is none of these, its files do not fit together, or it has labels of its own.
    """
    source = _open(spec, size, labels)
    if labels is not None and not isinstance(source, ImageFolderSource | ArchiveSource):
        raise DataError(
            f"{labels.path}: a file of labels is for a folder of images or an archive of one, and "
            f"{spec} is something else; leave it out"
        )
    return source


def _open(spec: str, size: int | None, labels: LabelFile | None) -> Source:
    if spec in BUNDLED_SETS:
        return open_bundled(spec, size=size)
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, size, labels)
    if path.suffix == ".tar":
        archive = open_folder_tar(path, flat=labels is not None) if path.is_file() else None
        if archive is not None:
            return ArchiveSource(archive, size=size, labels=labels)
        return WebDatasetSource(spec, size=size)
    if path.is_file() and path.suffix in _FILE_KINDS:
        return _FILE_KINDS[path.suffix](path, size, labels)
    for ending, program in _COMPRESSED_TARS.items():
        if path.is_file() and path.name.endswith(ending):
            raise DataError(
                f"{spec}: a compressed tar, whose images cannot be read one by one; unpack it "
                f"(tar xf {shlex.quote(spec)}) and give the folder, or the plain .tar that "
                f"{program} makes of it"
            )
    found = (
        f"a file that is not {', '.join(_FILE_KINDS)} or .tar"
        if path.exists()
        else ("no such file or folder")
    )
    raise DataError(
        f"{spec}: {found}; give {' or '.join(BUNDLED_SETS)}, a file {', '.join(_FILE_KINDS)} or "
        ".tar, a folder of images, or one of IDX, CIFAR, STL-10 or SVHN files"
    )


def _open_folder(folder: Path, size: int | None, labels: LabelFile | None) -> Source:
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
    return ImageFolderSource(folder, size=size, labels=labels)


_FILE_KINDS: dict[str, Callable[[Path, int | None, LabelFile | None], Source]] = {
    ".npy": lambda path, size, labels: NpySource(path, size=size),
    ".npz": lambda path, size, labels: NpzSource(path, size=size),
    ".parquet": lambda path, size, labels: ParquetSource(path, size=size),
    ".zip": lambda path, size, labels: ArchiveSource(ZipArchive(path), size=size, labels=labels),
}
_COMPRESSED_TARS = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip",
    ".tar.bz2": "bunzip2",
    ".tar.xz": "unxz",
    ".tar.zst": "unzstd",
}
