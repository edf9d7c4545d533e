"""What an archive of images offers, whatever its format, and the check of the names in it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from data.errors import DataError
from data.sources import SPLITS, UnreadableImage
from data.sources_folder import is_image
from data.tar import MAX_NAME_BYTES

_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_SHOWN = 64

Member = TypeVar("Member")


class Archive(Protocol):
    """Images in one file, each of them read by itself and never unpacked to disk."""

    @property
    def path(self) -> Path:
        """The archive."""

    @property
    def kind(self) -> str:
        """`zip` or `tar`."""

    @property
    def images(self) -> list[PurePosixPath]:
        """Paths of the images inside the archive, each once, links and the like among them."""

    @property
    def damage(self) -> UnreadableImage | None:
        """Where the archive cannot be read any further; None where it is whole."""

    def read(self, paths: Iterable[PurePosixPath]) -> Iterator[bytes | str]:
        """Stream the bytes of these images, or as text why one cannot be read.

        Raises:
            DataError: the archive itself cannot be read any more.
        """


def images_by_path(
    archive: Path, members: Iterable[tuple[str, Member]]
) -> dict[PurePosixPath, Member]:
    """Keep the members that are images, by their paths; directories end in a slash.

    Hidden files, files in hidden folders and files with other endings are passed over.

    Args:
        archive: for messages.
        members: every one's whole name as it stands in the archive, and whatever is to be kept.
    Raises:
        DataError: a name points outside, or an image's cannot be printed, is too long or stands
            twice.
    """
    images: dict[PurePosixPath, Member] = {}
    for name, member in members:
        shown = ascii(name)[1:-1][:_LONGEST_SHOWN]
        if (
            not name
            or name.startswith("/")
            or "\\" in name
            or _DRIVE.match(name)
            or ".." in name.split("/")
        ):
            raise DataError(
                f"{archive}: {shown} is no name inside the archive; the archive is refused, make "
                "it anew from a folder"
            )
        if not is_image_name(name):
            continue
        if not name.isprintable():
            raise DataError(f"{archive}: {shown} has characters that cannot be printed; rename it")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise DataError(f"{archive}: {shown}... is a name above {MAX_NAME_BYTES} bytes")
        inside = PurePosixPath(name)  # without a ./ in front
        if inside in images:
            raise DataError(f"{archive}: the name {name} stands twice; make the archive anew")
        images[inside] = member
    return images


def is_image_name(name: str) -> bool:
    """Whether a member's name is that of an image, neither hidden nor in a hidden folder."""
    inside = PurePosixPath(name)
    # A name with .. is refused elsewhere, not passed over.
    hidden = any(part.startswith(".") and part != ".." for part in inside.parts)
    return not name.endswith("/") and not hidden and is_image(inside)


def folder_around(paths: list[PurePosixPath]) -> PurePosixPath:
    """The folder that holds all images, and is no split or class of its own."""
    around = PurePosixPath()
    first = paths[0].parts
    for depth, folder in enumerate(first[:-1]):
        others = any(len(path.parts) <= depth + 1 or path.parts[depth] != folder for path in paths)
        if others or folder in SPLITS:
            break
        around /= folder
    return around
