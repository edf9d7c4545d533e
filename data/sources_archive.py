"""Images from a zip or tar archive in the layouts of an image folder."""

from collections.abc import Iterator

from data.archive import Archive, folder_around
from data.encoded_images import SOURCE_SUFFIXES, EncodedImage, EncodedImages
from data.errors import DataError, printable
from data.folder_layout import read_layout
from data.label_file import LabelFile
from data.sources import SourceImage, UnreadableImage


class ArchiveSource:
    """PNG, JPEG, WebP, BMP, GIF, TIFF, PGM and PPM files in an archive.

    The layouts are those of an image folder. One folder around everything is passed through.
    Hidden files and files with other endings are passed over. An archive's damage is an unreadable
    image of its first split.
    """

    def __init__(
        self, archive: Archive, *, size: int | None = None, labels: LabelFile | None = None
    ) -> None:
        path = archive.path
        self._archive = archive
        self.name = path.stem
        self.source = f"{archive.kind} archive {path.name}"
        self.licence = "not stated"
        if not archive.images:
            raise DataError(
                f"{path}: no images found; looked for files ending in "
                f".{', .'.join(SOURCE_SUFFIXES)}"
            )
        self._around = folder_around(archive.images)
        inside = [image.relative_to(self._around) for image in archive.images]
        layout = read_layout(str(path), inside, labels, None)
        self._files = layout.splits
        self.classes = layout.classes
        self._encoded = EncodedImages(self._entries, list(layout.splits), size=size)
        self.counts = self._encoded.counts
        self.digest = self._encoded.digest

    def images(self, split: str) -> Iterator[SourceImage | UnreadableImage]:
        """Stream a split, images with unreadable headers first, scaled to the size asked for."""
        return self._encoded.images(split)

    def _entries(self, split: str) -> Iterator[EncodedImage | UnreadableImage]:
        files = self._files[split]
        contents = self._archive.read(self._around / file.path for file in files)
        for file, content in zip(files, contents, strict=True):
            origin = printable(f"{self._archive.path}: {self._around / file.path}")
            if isinstance(content, str):
                yield UnreadableImage(origin, content)
                continue
            suffix = file.path.suffix[1:].lower()
            yield EncodedImage(origin, file.path.as_posix(), file.label, content, suffix)
        if self._archive.damage is not None and split == next(iter(self._files)):
            yield self._archive.damage
