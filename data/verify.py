"""Checking packed shards: every sample is read and decoded, every bad one is named."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.dataset import DATASET_FILE, ContentHash, DatasetInfo, read_dataset_info
from data.decode import decode_image
from data.errors import DataError
from data.shards import BadSample, Sample, expand_shards, iter_samples

_SHARD_NUMBER = re.compile(r"[-_.]?\d+$")


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
    """What was found: per split, the number of bad samples, and what is wrong with the whole."""

    info: DatasetInfo | None
    splits: dict[str, SplitReport]
    problems: list[str]

    @property
    def bad(self) -> int:
        """Bad samples in all splits."""
        return sum(split.bad for split in self.splits.values())

    @property
    def good(self) -> bool:
        """No bad sample and no other problem."""
        return not self.bad and not self.problems


def verify(
    targets: Sequence[str],
    *,
    on_bad: Callable[[BadSample], None] = lambda bad: None,
    on_sample: Callable[[], None] = lambda: None,
) -> VerifyReport:
    """Read and decode every sample of a packed folder, or of the shards that patterns name.

    Args:
        targets: one folder, or any number of paths and patterns.
        on_bad: called with each bad sample as it is found.
        on_sample: called after each sample, to show progress.
    Raises:
        DataError: there is nothing to check, or `dataset.json` cannot be read.
    """
    folders = [Path(target) for target in targets if Path(target).is_dir()]
    if folders and len(targets) > 1:
        raise DataError(f"{folders[0]}: a folder is checked alone; give one folder, or only files")
    if folders:
        return _verify_folder(folders[0], on_bad, on_sample)
    report = VerifyReport(info=None, splits={}, problems=[])
    shards: dict[str, list[Path]] = {}
    for path in expand_shards(list(targets)):
        shards.setdefault(_SHARD_NUMBER.sub("", path.stem) or path.stem, []).append(path)
    _Checker(report, None, on_bad, on_sample).check(shards)
    return report


def _verify_folder(
    folder: Path, on_bad: Callable[[BadSample], None], on_sample: Callable[[], None]
) -> VerifyReport:
    info = read_dataset_info(folder)
    if info is None:
        raise DataError(
            f"{folder}: no {DATASET_FILE}; `python -m data pack` writes one, and "
            f"`python -m data verify '{folder}/*.tar'` checks shards that have none"
        )
    report = VerifyReport(info=info, splits={}, problems=[])
    shards: dict[str, list[Path]] = {}
    listed: set[str] = set()
    for split, names in info.shards.items():
        listed.update(names)
        shards[split] = [folder / name for name in names if (folder / name).is_file()]
        missing = [name for name in names if not (folder / name).is_file()]
        report.problems += [f"{folder / name}: missing" for name in missing]
    unlisted = sorted(path.name for path in folder.glob("*.tar") if path.name not in listed)
    report.problems += [f"{folder / name}: not listed in {DATASET_FILE}" for name in unlisted]

    checker = _Checker(report, info, on_bad, on_sample)
    checker.check(shards)
    for split, count in info.counts.items():
        found = report.splits[split].samples + report.splits[split].bad
        if found != count:
            report.problems.append(
                f"{folder}: {split} has {found} samples, {DATASET_FILE} says {count}"
            )
    if report.good and checker.content.hexdigest() != info.fingerprint:
        report.problems.append(
            f"{folder}: images or labels are not those that were packed (another fingerprint than "
            f"in {DATASET_FILE}); pack the set again"
        )
    return report


class _Checker:
    """Reads shards and adds what it finds to a report."""

    def __init__(
        self,
        report: VerifyReport,
        info: DatasetInfo | None,
        on_bad: Callable[[BadSample], None],
        on_sample: Callable[[], None],
    ) -> None:
        self.content = ContentHash()
        self._report = report
        self._info = info
        self._shape = info.image_shape if info is not None else None
        self._on_bad = on_bad
        self._on_sample = on_sample

    def check(self, shards: dict[str, list[Path]]) -> None:
        """Check the shards of each split, in order."""
        for split, paths in shards.items():
            report = self._report.splits[split] = SplitReport(shards=len(paths))
            keys: dict[str, Path] = {}
            for path in paths:
                for item in iter_samples(path):
                    bad = item if isinstance(item, BadSample) else self._check(split, item, keys)
                    if bad is not None:
                        report.bad += 1
                        self._on_bad(bad)
                    self._on_sample()

    def _check(self, split: str, sample: Sample, keys: dict[str, Path]) -> BadSample | None:
        """Count and hash a good sample; say what is wrong with a bad one."""
        try:
            image = decode_image(sample.image, sample.suffix)
            self._check_fits(sample, image, keys)
        except DataError as error:
            return BadSample(sample.shard, sample.offset, sample.key, str(error))
        keys[sample.key] = sample.shard
        report = self._report.splits[split]
        report.samples += 1
        report.passed_over.update(sample.passed_over)
        if sample.label is None:
            report.unlabeled += 1
        else:
            report.per_class[sample.label] += 1
        self.content.add(split, sample.key, sample.label, image)
        return None

    def _check_fits(
        self, sample: Sample, image: npt.NDArray[np.uint8], keys: dict[str, Path]
    ) -> None:
        if sample.key in keys:
            raise DataError(f"the same key is in {keys[sample.key].name}")
        if self._info is None:
            return
        if image.shape != self._shape:
            raise DataError(
                f"[channels, height, width] {list(image.shape)}, {DATASET_FILE} says "
                f"{list(self._info.image_shape)}"
            )
        if sample.label is None and self._info.labeled:
            raise DataError("it has no .cls, the other samples have")
        classes = self._info.classes or []
        if sample.label is not None and sample.label >= len(classes):
            raise DataError(f".cls holds {sample.label}, {DATASET_FILE} has {len(classes)} classes")
