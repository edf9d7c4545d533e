"""Writing a source's images into shards: what pack does once it is known what to write and where.

Finished shards that a killed run left in the folder are kept: their images are not encoded again.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data.channel_statistics import ChannelStatistics
from data.dataset import ContentHash, DatasetInfo
from data.decode import decode_image
from data.encode import Encoding, encode_in_order
from data.errors import DataError
from data.finished_shards import FinishedShards
from data.shard_size import ShardSize
from data.shard_writer import ShardWriter
from data.shards import MAX_MEMBER_BYTES, Sample, iter_samples
from data.sources import Source, SourceImage, UnreadableImage
from data.split_share import falls_in_test, groups_in_test

OnBad = Literal["fatal", "skip"]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How images are written.

    `encoding` is None where the original files' bytes are kept, `test_share` the share of the split
    `train` that becomes `test`, or None; with `group_copies` copies are on one side of it.
    """

    encoding: Encoding | None
    shard_size: ShardSize
    test_share: float | None
    group_copies: bool
    on_bad: OnBad
    workers: int


@dataclass(frozen=True, slots=True)
class _Task:
    """One image on its way into a shard; `kept` is the sample that is there already."""

    origin: str
    split: str
    key: str
    suffix: str
    label: int | None
    image: npt.NDArray[np.uint8]
    original: bytes | None
    kept: Sample | None


def write_set(
    source: Source,
    folder: Path,
    recipe: str,
    options: WriteOptions,
    on_image: Callable[[], None],
) -> tuple[DatasetInfo, list[UnreadableImage]]:
    """Write all shards into `folder` and return what they hold, and the images left out.

    Raises:
        DataError: images do not decode or do not fit together.
    """
    writer = _SetWriter(source, folder, FinishedShards(folder, recipe), options, on_image)
    return writer.write(recipe), writer.left_out


class _SetWriter:
    """Writes split after split and adds up what it writes."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        finished: FinishedShards,
        options: WriteOptions,
        on_image: Callable[[], None],
    ) -> None:
        self.left_out: list[UnreadableImage] = []
        self._source = source
        self._folder = folder
        self._finished = finished
        self._options = options
        self._on_image = on_image
        self._content = ContentHash()
        self._of_split: defaultdict[str, ContentHash] = defaultdict(ContentHash)
        self._statistics = ChannelStatistics()
        self._measured = "train" if "train" in source.counts else next(iter(source.counts))
        self._shape: tuple[int, ...] | None = None
        self._in_test: Iterator[bool] | None = None
        self._labeled = True
        self._counts: dict[str, int] = {}
        self._shards: dict[str, list[str]] = {}
        self._shard_counts: Counter[str] = Counter()

    def write(self, recipe: str) -> DatasetInfo:
        divided = self._options.test_share is not None
        for split in self._source.counts:
            self._write_split(split, [split, "test"] if divided and split == "train" else [split])
        if self._shape is None:
            raise DataError(
                f"{self._source.name}: none of its images decodes, the first: {self.left_out[0]}"
            )
        if divided:
            self._hash_test()
        self._finished.close()
        moments = self._statistics.mean_and_std()
        return DatasetInfo(
            name=self._source.name,
            source=self._source.source,
            licence=self._source.licence,
            labeled=self._labeled,
            classes=self._source.classes,
            image_shape=(self._shape[0], self._shape[1], self._shape[2]),
            counts=self._counts,
            shards=self._shards,
            shard_counts=dict(self._shard_counts),
            shard_bytes={
                split: sum((self._folder / name).stat().st_size for name in names)
                for split, names in self._shards.items()
            },
            mean=moments[0] if moments else None,
            std=moments[1] if moments else None,
            fingerprint=self._content.hexdigest(),
            fingerprints={split: self._of_split[split].hexdigest() for split in self._counts},
            recipe=recipe,
            sha256={
                name: self._finished.sha256(name)
                for names in self._shards.values()
                for name in names
            },
        )

    def _write_split(self, split: str, targets: list[str]) -> None:
        """Write a split of the source into one or two of the set."""
        kept = {target: self._finished.samples(target) for target in targets}
        if len(targets) > 1 and self._options.group_copies:
            self._in_test = iter(self._grouped(split))
        self._counts |= dict.fromkeys(targets, 0)
        with contextlib.ExitStack() as stack:
            writers = {
                target: stack.enter_context(
                    ShardWriter(
                        self._folder,
                        target,
                        self._options.shard_size,
                        finished=self._finished.names(target),
                        on_finished=self._finished.add,
                    )
                )
                for target in targets
            }
            for task, pixels in self._stored(self._tasks(split, kept), writers):
                self._labeled = self._labeled and task.label is not None
                if task.split == split:
                    self._content.add(split, task.key, task.label, pixels)
                self._of_split[task.split].add("", task.key, task.label, pixels)
                if task.split == self._measured:
                    self._statistics.add(pixels)
        for target, writer in writers.items():
            self._shards[target] = writer.names

    def _tasks(self, split: str, kept: dict[str, Iterator[Sample]]) -> Iterator[_Task]:
        options = self._options
        for item in self._source.images(split):
            self._on_image()
            if isinstance(item, UnreadableImage):
                if options.on_bad == "fatal":
                    raise DataError(f"{item}; remove the file or give --on-bad skip")
                self.left_out.append(item)
                continue
            self._check_shape(item)
            if options.encoding is None and item.original is None:
                raise DataError(
                    f"{item.origin} cannot be kept as it is: it is no PNG, JPEG, WebP or npy file, "
                    "or grey among colour images; give --encode png"
                )
            reason = None if options.encoding is None else options.encoding.why_not(item.image)
            if reason is not None:
                raise DataError(f"{item.origin}: {reason}")
            target = "test" if len(kept) > 1 and self._falls_in_test(item) else split
            number = self._counts[target]
            self._counts[target] += 1
            yield _Task(
                origin=item.origin,
                split=target,
                key=f"{target}-{number:07d}",
                suffix=item.suffix
                if options.encoding is None
                else options.encoding.suffix(len(item.image)),
                label=item.label,
                image=item.image,
                original=item.original if options.encoding is None else None,
                kept=next(kept[target], None),
            )

    def _check_shape(self, item: SourceImage) -> None:
        self._shape = self._shape or item.image.shape
        if item.image.shape != self._shape:
            raise DataError(
                f"{item.origin}: [channels, height, width] {list(item.image.shape)}, "
                f"others have {list(self._shape)}; --size N makes all N x N"
            )

    def _falls_in_test(self, item: SourceImage) -> bool:
        if self._in_test is not None:
            return next(self._in_test)
        return falls_in_test(item.name, self._options.test_share or 0.0)

    def _grouped(self, split: str) -> list[bool]:
        """Whether each image of a split that decodes is a test image, copies being together."""
        from data.copy_groups import copy_groups  # it imports torch

        names: list[str] = []

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for item in self._source.images(split):
                if isinstance(item, UnreadableImage):
                    continue
                self._check_shape(item)
                names.append(item.name)
                yield item.image

        groups = copy_groups(images())
        return groups_in_test(names, groups, self._options.test_share or 0.0).tolist()

    def _stored(
        self, tasks: Iterator[_Task], writers: dict[str, ShardWriter]
    ) -> Iterator[tuple[_Task, npt.NDArray[np.uint8]]]:
        """Store images and yield each with the pixels that its stored bytes decode to."""
        encoding = self._options.encoding
        lossy = encoding is not None and encoding.form != "png"
        if encoding is None:
            encoded: Iterator[tuple[_Task, bytes | None]] = (
                (task, task.original) for task in tasks
            )
        else:
            images = ((task, None if task.kept else task.image) for task in tasks)
            encoded = encode_in_order(images, encoding, self._options.workers)
        for task, data in encoded:
            pixels = None if lossy else task.image
            if task.kept is not None:
                data = task.kept.image
                self._shard_counts[task.kept.shard.name] += 1
            else:
                assert data is not None
                if len(data) > MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{task.origin}: {len(data):,} bytes as .{task.suffix}, more than the "
                        f"{MAX_MEMBER_BYTES:,} of a sample that are read again; give --size, or "
                        "--encode jpeg"
                    )
                writers[task.split].add(task.key, task.suffix, data, task.label)
                self._shard_counts[writers[task.split].names[-1]] += 1
            yield task, decode_image(data, task.suffix) if pixels is None else pixels

    def _hash_test(self) -> None:
        """Add the test split to the contents' hash, which goes split by split."""
        if not self._counts["test"] or not self._counts["train"]:
            raise DataError(
                f"test share: {self._options.test_share:g} leaves {self._counts['train']} training "
                f"and {self._counts['test']} test images; give another share"
            )
        self._counts["test"] = self._counts.pop("test")
        self._shards["test"] = self._shards.pop("test")
        for name in self._shards["test"]:
            for sample in iter_samples(self._folder / name):
                assert isinstance(sample, Sample)
                pixels = decode_image(sample.image, sample.suffix)
                self._content.add("test", sample.key, sample.label, pixels)
