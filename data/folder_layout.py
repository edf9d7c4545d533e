"""What the places of images in folders say: a class per subfolder, splits above them, or flat."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from data.encoded_images import name_hash
from data.errors import DataError, printable
from data.label_file import LabelFile
from data.sources import SPLITS


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image's path below the source's folder, and its class."""

    path: PurePosixPath
    label: int | None


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """Images per split, mixed in an order that is the same on every machine, and class names."""

    splits: dict[str, list[PlacedImage]]
    classes: list[str] | None


def read_layout(
    where: str,
    paths: Iterable[PurePosixPath],
    labels: LabelFile | None,
    known: list[str] | None,
) -> FolderLayout:
    """Tell splits by the folders in which images lie, and classes by these or by a file of labels.

    Args:
        where: the source's folder, for messages.
        paths: of the images, below that folder.
        labels: the file; None: folders say the classes.
        known: class names in the order of the file's classes; None: its sorted labels.
    Raises:
        DataError: they lie in no known layout, or a line is of no image, or of several.
    """
    if labels is None:
        return _by_folders(where, paths)
    return _by_label_file(where, paths, labels, known)


def _by_folders(where: str, paths: Iterable[PurePosixPath]) -> FolderLayout:
    """Tell splits and classes by the folders in which images lie.

    Args:
        where: the source's folder, for messages.
        paths: of the images, below that folder.
    Raises:
        DataError: they lie in no known layout.
    """
    roots = _split_roots(where, list(paths))
    class_names = {
        split: _class_folders(f"{where}{root}", inside) for split, (root, inside) in roots.items()
    }
    class_names.pop("unlabeled", None)
    known = next((names for names in class_names.values() if names), set())
    for split, names in class_names.items():
        if odd := sorted(name for name in names if not name.isprintable()):
            raise DataError(
                f"{where}: the class folder {printable(odd[0])} has a name with characters that "
                "cannot be printed; rename it"
            )
        if unknown := sorted(names - known):
            raise DataError(f"{where}/{split}/{unknown[0]}: train/ has no such class")
    classes = sorted(known)
    splits: dict[str, list[PlacedImage]] = {}
    for split, (root, inside) in roots.items():
        labeled = bool(class_names.get(split))
        above = PurePosixPath(root.removeprefix("/"))
        placed = [
            PlacedImage(above / path, classes.index(path.parts[0]) if labeled else None)
            for path in inside
        ]
        splits[split] = _mixed(placed)
    return FolderLayout(splits, classes or None)


def _by_label_file(
    where: str, paths: Iterable[PurePosixPath], labels: LabelFile, known: list[str] | None
) -> FolderLayout:
    """Tell splits by the folders in which images lie, and classes by a file of labels.

    Its keys are the images' paths below the source's folder, with or without their ending. Images
    without a line have no label.

    Args:
        where: the source's folder, for messages.
        paths: of the images, below that folder.
        known: class names in their order; None: the sorted labels of the file.
    Raises:
        DataError: a line is of no image, or of several.
    """
    paths = list(paths)
    classes, numbers = labels.classes(known)
    class_of = dict(zip(labels.keys, numbers.tolist(), strict=True))
    found: dict[str, PurePosixPath] = {}
    label_of: dict[PurePosixPath, int] = {}
    for path in paths:
        for key in {path.as_posix(), path.with_suffix("").as_posix()} & class_of.keys():
            other = found.setdefault(key, path)
            if other != path or path in label_of:
                raise DataError(
                    f"{labels.path}: key {key}: {_shown(path)} has another line or {_shown(other)} "
                    "the same key; write the endings too"
                )
            label_of[path] = class_of[key]
    labels.check_known(
        set(found),
        f"keys are paths below {where}, with or without their ending, such as {_shown(paths[0])}",
    )
    splits = {}
    for split, (root, inside) in _split_roots(where, paths).items():
        full = [PurePosixPath(root.removeprefix("/")) / path for path in inside]
        splits[split] = _mixed([PlacedImage(path, label_of.get(path)) for path in full])
    return FolderLayout(splits, list(classes))


def _mixed(images: list[PlacedImage]) -> list[PlacedImage]:
    return sorted(images, key=lambda image: name_hash(image.path.as_posix()))


def _split_roots(
    where: str, paths: list[PurePosixPath]
) -> dict[str, tuple[str, list[PurePosixPath]]]:
    """The images of each split below its folder; all are `train` where they are not divided."""
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    found = [split for split in SPLITS if split in folders]
    others = sorted(folders - set(SPLITS))
    loose = any(len(path.parts) == 1 for path in paths)
    names_classes = bool(others) and found == ["train"]
    if not found or names_classes or ("train" not in found and (others or loose)):
        return {"train": ("", paths)}
    if others:
        raise DataError(
            f"{where}: beside {'/ and '.join(found)}/ there is {printable(', '.join(others))}; "
            "move it elsewhere"
        )
    if loose:
        raise DataError(f"{where}: images lie beside train/; move them into it")
    inside: dict[str, list[PurePosixPath]] = {split: [] for split in found}
    for path in paths:
        inside[path.parts[0]].append(PurePosixPath(*path.parts[1:]))
    return {split: (f"/{split}", inside[split]) for split in found}


def _class_folders(root: str, paths: list[PurePosixPath]) -> set[str]:
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    loose = next((path for path in paths if len(path.parts) == 1), None)
    if folders and loose is not None:
        raise DataError(
            f"{root}: {printable(loose.name)} lies beside class folders such as "
            f"{printable(min(folders))}/; put every image into a class folder, or all of them flat"
        )
    return folders


def _shown(path: PurePosixPath) -> str:
    return printable(str(path))
