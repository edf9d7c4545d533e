"""`python -m data stats`: what the images of shards are like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.commands.command import add_command, bytes_in_words

if TYPE_CHECKING:
    from data.set_statistics import SplitStatistics

_MOST_LISTED = 20

_TEXT = """\
Decode every image, and say for each split how many there are, of which sizes and formats, in how
many bytes, mean and standard deviation of each channel (of pixels scaled to 0 ... 1), how many
images have the same pixels as an earlier one, of the same split or of one before, how many
labels are missing, and the images of each class. Near copies are found by
`python -m data audit`, damage by `python -m data verify`."""

_EXAMPLES = """\
examples:
  python -m data stats datasets/fashion-mnist-mini
  python -m data stats 'shards/*.tar'

Ends with 0, or with 1 where an image cannot be used."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    stats = add_command(
        commands, "stats", short="say what images are like", text=_TEXT, examples=_EXAMPLES
    )
    stats.add_argument(
        "targets", metavar="FOLDER|SHARDS", nargs="+", help="a packed folder, or shards"
    )
    stats.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.progress import Progress
    from data.set_statistics import split_statistics
    from data.target_splits import open_targets

    info, splits = open_targets(args.targets)
    with Progress("decoding", sum(info.counts.values()) if info else None) as progress:
        found = split_statistics(splits, on_image=progress.step)
    for number, (name, split) in enumerate(found.items()):
        print(f"{'' if number == 0 else chr(10)}{name}: {split.images:,} images")
        for line in _lines(split, info.classes if info else None):
            print(f"  {line}")
    return 1 if any(split.bad for split in found.values()) else 0


def _lines(split: SplitStatistics, classes: list[str] | None) -> Iterator[str]:
    from data.npy import channels_in_words

    if split.bad:
        yield f"bad      {split.bad:,} samples that cannot be used"
    for (channels, height, width), count in split.shapes.most_common(_MOST_LISTED):
        size = f"{width} x {height} in {channels_in_words(channels)}"
        yield f"size     {size}" + (f": {count:,}" if len(split.shapes) > 1 else "")
    if (more := len(split.shapes) - _MOST_LISTED) > 0:
        yield f"size     {more:,} others"
    if split.images:
        formats = ", ".join(f"{count:,} {form}" for form, count in split.formats.most_common())
        each = bytes_in_words(round(split.bytes / split.images))
        yield f"format   {formats}; {bytes_in_words(split.bytes)}, {each} each"
    if split.mean is not None and split.std is not None:
        for what, values in (("mean", split.mean), ("std", split.std)):
            yield f"{what:8} {' '.join(f'{value:.4f}' for value in values)}"
    copies = f", {split.copies:,} of images of earlier splits" if split.copies else ""
    yield f"copies   {split.duplicates:,} of earlier images{copies}"
    yield f"labels   {split.labels_missing:,} missing"
    if split.labels:
        numbers = sorted(split.labels, key=lambda label: (-split.labels[label], label))
        for label in sorted(numbers[:_MOST_LISTED]):
            named = f" {classes[label]}" if classes and label < len(classes) else ""
            yield f"  {label:>5}{named}: {split.labels[label]:,}"
        if (more := len(numbers) - _MOST_LISTED) > 0:
            fewest = split.labels[numbers[-1]]
            yield f"        {more:,} other classes of {fewest:,} or more each"
