"""`python -m data verify`: every sample read and decoded, and sets repaired."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from data.commands.command import add_command, counts_in_words, table_lines

if TYPE_CHECKING:
    from data.verify import VerifyReport

_MAX_ENDINGS = 10

_TEXT = """\
Read and decode every sample. Each bad one is named: shard, byte offset, key and reason. Of a
folder, counts, labels, shapes and checksums are compared with its dataset.json.

With --repair, the good samples of a set that is not good are written to another folder, in the
same order and shards, with a dataset.json if there was one. Members that are no image or class
number are left behind.

Ends with 0 if all is good or was repaired, 1 if anything is bad, 2 if the check or the repair
cannot be made."""

_EXAMPLES = """\
examples:
  python -m data verify datasets/fashion-mnist-mini
  python -m data verify 'shards/*.tar'
  python -m data verify 'shards/train-{000000..000031}.tar'
  python -m data verify datasets/photos --repair datasets/photos-repaired"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    verify = add_command(
        commands, "verify", short="check every sample of shards", text=_TEXT, examples=_EXAMPLES
    )
    verify.add_argument(
        "targets", metavar="FOLDER|GLOB", nargs="+", help="a packed folder, or shards"
    )
    verify.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that share the shards (default: one per core, fewer for small sets)",
    )
    verify.add_argument(
        "--repair", metavar="OUT", type=Path, help="write the good samples to this new folder"
    )
    verify.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.progress import Progress
    from data.repair import check_repair_folder
    from data.verify import verify

    if args.repair is not None:
        check_repair_folder(args.repair)  # before anything takes long
    with Progress("verifying", None) as progress:
        report = verify(
            args.targets,
            workers=args.workers,
            on_bad=lambda bad: progress.print(f"bad: {bad}"),
            on_samples=progress.step,
        )
    for problem in report.problems:
        print(f"bad: {problem}")
    rows: list[tuple[str, ...]] = [("split", "shards", "samples", "bad", "unlabeled", "classes")]
    for name, split in report.splits.items():
        classes = "-"
        if split.per_class:
            fewest, most = min(split.per_class.values()), max(split.per_class.values())
            each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
            classes = f"{len(split.per_class)} of {each} images"
        numbers = (split.shards, split.samples, split.bad, split.unlabeled)
        rows.append((name, *(f"{number:,}" for number in numbers), classes))
    for line in table_lines(rows):
        print(line)
    for name, split in report.splits.items():
        for suffix, count in split.passed_over.most_common(_MAX_ENDINGS):
            print(f"{name}: {count:,} members .{suffix} were passed over, unread")
        if (more := len(split.passed_over) - _MAX_ENDINGS) > 0:
            print(f"{name}: members with {more:,} other endings were passed over, unread")
    if not report.good:
        print(f"bad: {report.bad:,} samples, {len(report.problems):,} other problems")
        return 1 if args.repair is None else _repair(report, args.repair)
    print("good: every sample decodes")
    if args.repair is not None:
        print(f"nothing is to be repaired, so {args.repair} was not written")
    if report.info is not None:
        shards = shlex.quote(f"data.shards={Path(args.targets[0]) / 'train-*.tar'}")
        config = "configs/pretrain/quickstart.yaml"
        print(f"next: python -m pretrain {config} name={report.info.name} {shards}")
    return 0


def _repair(report: VerifyReport, out: Path) -> int:
    from data.repair import repair

    result = repair(report, out)
    shards = sum(len(names) for names in result.shards.values())
    print(
        f"{out}: {counts_in_words(result.counts)} good samples in {shards} "
        f"shard{'' if shards == 1 else 's'}; {report.bad:,} bad ones left out"
    )
    target = out if report.info is not None else out / "*.tar"
    print(f"next: python -m data verify {shlex.quote(str(target))}")
    return 0
