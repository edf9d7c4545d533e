"""Checking packed shards: every sample is read and decoded, every bad one is named."""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.cores import available_cores
from data.dataset import DATASET_FILE, ContentHash, DatasetInfo, read_dataset_info
from data.decode import decode_image
from data.errors import DataError
from data.shards import BadSample, Sample, expand_shards, iter_samples
from data.sources import file_sha256
from data.target_splits import shards_by_name

_WORKER_BYTES = 64 * 2**20  # what one process reads in the time in which another one starts


@dataclass(slots=True)
class SplitReport:
    """What one split's shards hold."""

    shards: int = 0
    samples: int = 0
    bad: int = 0
    unlabeled: int = 0
    per_class: Counter[int] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class VerifyReport:
    """What was found: per split, the bad samples, and what is wrong with the whole."""

    info: DatasetInfo | None
    shards: dict[str, list[Path]]
    """The files of each split that were there to be read."""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    bad_samples: list[BadSample] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Bad samples in all splits."""
        return len(self.bad_samples)

    @property
    def good(self) -> bool:
        """No bad sample and no other problem."""
        return not self.bad and not self.problems


def verify(
    targets: Sequence[str],
    *,
    workers: int | None = None,
    on_bad: Callable[[BadSample], None] = lambda bad: None,
    on_samples: Callable[[int], None] = lambda count: None,
) -> VerifyReport:
    """Read and decode every sample of a packed folder, or of the shards that patterns name.

    Args:
        targets: one folder, or any number of paths and patterns.
        workers: processes to share the shards; None: as many as there are cores and work for.
        on_bad: called with each bad sample, in order.
        on_samples: called with the number of samples of each shard, to show progress.
    Raises:
        DataError: there is nothing to check, or `dataset.json` cannot be read.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers: {workers}; give a number of processes from 1")
    folders = [Path(target) for target in targets if Path(target).is_dir()]
    if folders and len(targets) > 1:
        raise DataError(f"{folders[0]}: a folder is checked alone; give one folder, or only files")
    if folders:
        return _verify_folder(folders[0], workers, on_bad, on_samples)
    report = VerifyReport(info=None, shards=shards_by_name(expand_shards(list(targets))))
    _check(report, None, workers, on_bad, on_samples)
    return report


def _verify_folder(
    folder: Path,
    workers: int | None,
    on_bad: Callable[[BadSample], None],
    on_samples: Callable[[int], None],
) -> VerifyReport:
    info = read_dataset_info(folder)
    if info is None:
        raise DataError(
            f"{folder}: no {DATASET_FILE}; `python -m data pack` writes one, and "
            f"`python -m data verify '{folder}/*.tar'` checks shards that have none"
        )
    report = VerifyReport(info=info, shards={})
    listed: set[str] = set()
    for split, names in info.shards.items():
        listed.update(names)
        report.shards[split] = [folder / name for name in names if (folder / name).is_file()]
        missing = [name for name in names if not (folder / name).is_file()]
        report.problems += [f"{folder / name}: missing" for name in missing]
    unlisted = sorted(path.name for path in folder.glob("*.tar") if path.name not in listed)
    report.problems += [f"{folder / name}: not listed in {DATASET_FILE}" for name in unlisted]

    # Images in order make a fingerprint, so one process has to see them all; checksums do not.
    content = ContentHash() if info.sha256 is None else None
    _check(report, content, workers, on_bad, on_samples)
    for split, count in info.counts.items():
        found = report.splits[split].samples + report.splits[split].bad
        if found != count:
            report.problems.append(
                f"{folder}: {split} has {found} samples, {DATASET_FILE} says {count}"
            )
    if report.good and content is not None and content.hexdigest() != info.fingerprint:
        report.problems.append(
            f"{folder}: images or labels are not those that were packed (another fingerprint than "
            f"in {DATASET_FILE}); pack the set again"
        )
    return report


def _check(
    report: VerifyReport,
    content: ContentHash | None,
    workers: int | None,
    on_bad: Callable[[BadSample], None],
    on_samples: Callable[[int], None],
) -> None:
    """Read the shards of a report, in order, and add what they hold."""
    found = _check_each(report, content, workers)
    for split, paths in report.shards.items():
        total = report.splits[split] = SplitReport(shards=len(paths))
        keys: dict[str, Path] = {}
        for path, shard in zip(paths, found, strict=False):
            bad = list(shard.bad)
            for sample in shard.good:
                if sample.key in keys:
                    reason = f"the same key is in {keys[sample.key].name}"
                    bad.append(BadSample(path, sample.offset, sample.key, reason))
                    continue
                keys[sample.key] = path
                total.samples += 1
                if sample.label is None:
                    total.unlabeled += 1
                else:
                    total.per_class[sample.label] += 1
            bad.sort(key=lambda one: one.offset)
            for one in bad:
                on_bad(one)
            total.bad += len(bad)
            total.passed_over.update(shard.passed_over)
            report.bad_samples += bad
            report.problems += shard.problems
            on_samples(len(shard.good) + len(shard.bad))


def _check_each(
    report: VerifyReport, content: ContentHash | None, workers: int | None
) -> "Iterator[_ShardReport]":
    placed = [(split, path) for split, paths in report.shards.items() for path in paths]
    if workers is None:
        work = sum(path.stat().st_size for _, path in placed) // _WORKER_BYTES
        workers = min(available_cores(), work)
    if content is not None or min(workers, len(placed)) <= 1:
        for split, path in placed:
            add_image = None if content is None else partial(content.add, split)
            yield _check_shard(path, report.info, add_image)
        return
    # Not forked: the caller may have threads.
    context = multiprocessing.get_context("spawn")
    check = partial(_check_shard, info=report.info)
    with ProcessPoolExecutor(min(workers, len(placed)), mp_context=context) as pool:
        try:
            yield from pool.map(check, [path for _, path in placed])
        except BrokenProcessPool as error:
            raise DataError(
                "a process that checks shards was killed, maybe for want of memory: "
                "give fewer --workers"
            ) from error


@dataclass(frozen=True, slots=True)
class _GoodSample:
    key: str
    offset: int
    label: int | None


@dataclass(slots=True)
class _ShardReport:
    """What one shard holds, before its keys are compared with those of others."""

    good: list[_GoodSample] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


AddImage = Callable[[str, int | None, npt.NDArray[np.uint8]], None]


def _check_shard(
    path: Path, info: DatasetInfo | None, add_image: AddImage | None = None
) -> _ShardReport:
    """Read one shard, and compare it with what the whole set is said to be."""
    report = _ShardReport()
    for item in iter_samples(path):
        if isinstance(item, BadSample):
            report.bad.append(item)
            continue
        try:
            image = decode_image(item.image, item.suffix)
            if info is not None:
                _check_fits(item, image, info)
        except DataError as error:
            report.bad.append(BadSample(path, item.offset, item.key, str(error)))
            continue
        report.good.append(_GoodSample(item.key, item.offset, item.label))
        report.passed_over.update(item.passed_over)
        if add_image is not None:
            add_image(item.key, item.label, image)
    if info is not None and info.sha256 is not None and file_sha256(path) != info.sha256[path.name]:
        report.problems.append(
            f"{path}: not the bytes that were packed (another sha256 than in {DATASET_FILE})"
        )
    if info is not None and info.shard_counts is not None and not report.bad:
        listed = info.shard_counts.get(path.name)
        if listed != len(report.good):
            report.problems.append(
                f"{path}: {len(report.good)} samples, {DATASET_FILE} says {listed}"
            )
    return report


def _check_fits(sample: Sample, image: npt.NDArray[np.uint8], info: DatasetInfo) -> None:
    if image.shape != info.image_shape:
        raise DataError(
            f"[channels, height, width] {list(image.shape)}, {DATASET_FILE} says "
            f"{list(info.image_shape)}"
        )
    if sample.label is None and info.labeled:
        raise DataError("it has no .cls, the other samples have")
    classes = info.classes or []
    if sample.label is not None and sample.label >= len(classes):
        raise DataError(f".cls holds {sample.label}, {DATASET_FILE} has {len(classes)} classes")
