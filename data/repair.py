"""Writing shards again without their bad samples."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.channel_statistics import ChannelStatistics
from data.dataset import ContentHash, DatasetInfo, write_dataset_info
from data.decode import decode_image
from data.errors import DataError
from data.shard_writer import add_sample
from data.shards import Sample, iter_samples
from data.sources import file_sha256
from data.tar_writer import TarWriter
from data.verify import VerifyReport
from data.whole_folder import hidden_folder, publish


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What was written: the samples and shards per split."""

    counts: dict[str, int]
    shards: dict[str, list[str]]


def check_repair_folder(out: Path) -> None:
    """Check that repaired shards can be written to `out` and replace nothing.

    Raises:
        DataError: there is something already.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} is there already and is never replaced; give another folder")


def repair(report: VerifyReport, out: Path) -> RepairResult:
    """Write the good samples of verified shards to `out`, in the same order under the same names.

    A shard that has no good sample is left out, and so are members that are no image or class
    number. Where the shards have a `dataset.json`, `out` gets one of its own.

    Raises:
        DataError: there is something at `out`, there is no good sample, or two shards of
            different folders have one name.
    """
    check_repair_folder(out)
    if not sum(split.samples for split in report.splits.values()):
        raise DataError(f"{out}: not written: no sample is good")
    bad = {(sample.shard, sample.offset) for sample in report.bad_samples}
    content = ContentHash()
    of_split = {split: ContentHash() for split in report.shards}
    statistics = ChannelStatistics()
    counts: dict[str, int] = {}
    shards: dict[str, list[str]] = {}
    shard_counts: dict[str, int] = {}
    measured = "train" if "train" in report.shards else next(iter(report.shards))

    def add_image(split: str, sample: Sample) -> None:
        image = decode_image(sample.image, sample.suffix)
        content.add(split, sample.key, sample.label, image)
        of_split[split].add("", sample.key, sample.label, image)
        if report.info is not None and split == measured:
            statistics.add(image)

    with hidden_folder(out) as hidden:
        for split, paths in report.shards.items():
            counts[split], shards[split] = 0, []
            for path in paths:
                samples = (
                    sample
                    for sample in iter_samples(path)
                    if isinstance(sample, Sample) and (path, sample.offset) not in bad
                )
                if written := _write_shard(hidden / path.name, samples, partial(add_image, split)):
                    counts[split] += written
                    shards[split].append(path.name)
                    shard_counts[path.name] = written
        if report.info is not None:
            info = _repaired_info(
                report.info,
                hidden,
                counts,
                shards,
                shard_counts,
                content.hexdigest(),
                {split: found.hexdigest() for split, found in of_split.items()},
                statistics.mean_and_std() or (None, None),
            )
            write_dataset_info(hidden, info)
        publish(hidden, out)
    return RepairResult(counts, shards)


def _write_shard(path: Path, samples: Iterator[Sample], add_image: Callable[[Sample], None]) -> int:
    """Write a shard of these samples, and return how many they are; none make no file."""
    first = next(samples, None)
    if first is None:
        return 0
    if path.exists():
        raise DataError(f"{first.shard}: two shards have this name; repair one folder at a time")
    written = 0
    tar = TarWriter(path)
    try:
        for sample in itertools.chain([first], samples):
            add_sample(tar, sample.key, sample.suffix, sample.image, sample.label)
            add_image(sample)
            written += 1
    except BaseException:
        tar.abandon()
        raise
    tar.close()
    return written


def _repaired_info(
    info: DatasetInfo,
    folder: Path,
    counts: dict[str, int],
    shards: dict[str, list[str]],
    shard_counts: dict[str, int],
    fingerprint: str,
    fingerprints: dict[str, str],
    mean_and_std: tuple[list[float], list[float]] | tuple[None, None],
) -> DatasetInfo:
    # Another recipe, or `pack` would take the repaired set for the one that it would write.
    recipe = hashlib.sha256(f"repaired {info.recipe} {fingerprint}".encode()).hexdigest()
    names = [name for of_split in shards.values() for name in of_split]
    return DatasetInfo.model_validate(
        {
            **info.model_dump(),
            "counts": counts,
            "shards": shards,
            "shard_counts": shard_counts,
            "shard_bytes": {
                split: sum((folder / name).stat().st_size for name in of_split)
                for split, of_split in shards.items()
            },
            "mean": mean_and_std[0],
            "std": mean_and_std[1],
            "fingerprint": fingerprint,
            "fingerprints": fingerprints,
            "recipe": recipe,
            "sha256": {name: file_sha256(folder / name) for name in names},
        }
    )
