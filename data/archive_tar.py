"""The images in a tar of a folder, which may be hostile: nothing is ever extracted."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data.archive import folder_around, images_by_path, is_image_name
from data.encoded_images import MAX_FILE_BYTES
from data.errors import DataError, cause, printable
from data.sources import UnreadableImage
from data.tar import TarDamage, TarMember, iter_members


class TarArchive:
    """An `Archive` of the format tar; of a damaged one, what comes before the damage is read."""

    kind = "tar"

    def __init__(self, path: Path, members: list[TarMember], damage: TarDamage | None) -> None:
        """Keep where the images lie.

        Args:
            members, damage: of the tar.
        Raises:
            DataError: a name is refused.
        """
        self.path = path
        self._members = images_by_path(path, ((_name(member), member) for member in members))
        self.images = list(self._members)
        self.damage: UnreadableImage | None = None
        if damage is not None:
            where = printable(f"{path} offset {damage.offset}")
            self.damage = UnreadableImage(where, damage.reason)

    def read(self, paths: Iterable[PurePosixPath]) -> Iterator[bytes | str]:
        """Stream the bytes of these images, or as text why one cannot be read.

        Raises:
            DataError: the archive itself cannot be read any more.
        """
        try:
            with self.path.open("rb") as file:
                for path in paths:
                    member = self._members[path]
                    if member.problem is not None:
                        yield member.problem
                    elif member.size > MAX_FILE_BYTES:
                        yield f"above {MAX_FILE_BYTES} bytes"
                    else:
                        file.seek(member.data_offset)
                        yield file.read(member.size)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {cause(error)}") from error


def open_folder_tar(path: Path, *, flat: bool) -> TarArchive | None:
    """List the images of a tar of a folder; None where it is a WebDataset shard.

    A tar is of a folder if nothing in it ends in `.cls`, WebDataset's label, and its images lie in
    folders, once the folder around all of them is passed through.

    Args:
        flat: images that lie in no folders will do as well.
    Raises:
        DataError: there is no such file, it cannot be opened, or a name in it is refused.
    """
    members: list[TarMember] = []
    damage: TarDamage | None = None
    for item in iter_members(path):
        if isinstance(item, TarDamage):
            damage = item
        elif item.name.lower().endswith(".cls"):
            return None
        else:
            members.append(item)
    names = (_name(member) for member in members)
    images = [PurePosixPath(name) for name in names if is_image_name(name)]
    if not images:
        return None
    below = len(folder_around(images).parts) + 1
    if not flat and all(len(image.parts) == below for image in images):
        return None
    return TarArchive(path, members, damage)


def _name(member: TarMember) -> str:
    return member.raw_name.decode("utf-8", "surrogateescape")
