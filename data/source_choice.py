"""Which source of images a word on the command line means."""

from pathlib import Path

from data.bundled_sets import BUNDLED_SETS, open_bundled
from data.errors import DataError
from data.sources import Source
from data.sources_arrays import NpzSource
from data.sources_folder import ImageFolderSource
from data.sources_idx import IdxSource, is_idx_folder


def open_source(spec: str, *, size: int | None = None) -> Source:
    """Find out what `spec` is and open it.

    Args:
        spec: a bundled set's name, an `.npz` file, a folder of IDX files or a folder of images.
        size: height and width of the images to be given, in pixels; None keeps their own.
    Raises:
        DataError: it is none of these, or its files do not fit together.
    """

    if spec in BUNDLED_SETS:
        return open_bundled(spec, size=size)
    path = Path(spec)
    if path.is_dir():
        if is_idx_folder(path):
            return IdxSource(path, size=size)
        return ImageFolderSource(path, size=size)
    if path.is_file() and path.suffix == ".npz":
        return NpzSource(path, size=size)
    found = "a file that is not .npz" if path.exists() else "no such file or folder"
    raise DataError(
        f"{spec}: {found}; give {' or '.join(BUNDLED_SETS)}, an .npz, a folder of IDX files "
        "or a folder of images"
    )
