"""`python -m data audit`: test images of which copies are learned from."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data.commands.command import add_command
from data.errors import DataError

if TYPE_CHECKING:
    from data.audit_report import AuditReport

_TEXT = """\
Find test images of which copies are among the images of pretraining or the labelled training
images: exact copies (the same decoded pixels) and near ones (encoded again, shifted by a pixel or
two, made brighter or darker). A score on such images says too much. docs/audit.md says how it is
decided.

Writes every pair with its distance, the most alike first, and with --page a page that shows them.
Shards may be given for both --pretrain and --train; they are read once."""

_EXAMPLES = """\
examples:
  python -m data audit --train 'datasets/mine/train-*.tar' --test 'datasets/mine/test-*.tar' \\
      --out audit.json --page audit.html
  python -m data audit --pretrain 'datasets/photos/train-*.tar' --channels 3 --size 32 \\
      --test 'datasets/mine/test-*.tar' --out audit.json

Exit status: 0 done, whatever was found; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    audit = add_command(
        commands,
        "audit",
        short="find test images of which copies are learned from",
        text=_TEXT,
        examples=_EXAMPLES,
    )
    for name, what in (
        ("--pretrain", "shards of pretraining images: paths, globs or braces"),
        ("--train", "shards of labelled training images"),
    ):
        audit.add_argument(name, metavar="GLOB", nargs="+", default=[], help=what)
    audit.add_argument(
        "--test", metavar="GLOB", nargs="+", required=True, help="shards of test images"
    )
    audit.add_argument(
        "--out", metavar="JSON", type=Path, required=True, help="file to write, such as audit.json"
    )
    audit.add_argument("--page", metavar="HTML", type=Path, help="also a page with pictures")
    audit.add_argument(
        "--channels", type=int, choices=(1, 3), help="bring all images to grey (1) or colour (3)"
    )
    audit.add_argument(
        "--size", metavar="N", type=int, help="crop and scale all images to N x N pixels"
    )
    audit.add_argument("--overwrite", action="store_true", help="replace files that are there")
    audit.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    """Audit, write and say what was found.

    Raises:
        DataError: bad input, or a file that is there.
        PageError: a file cannot be written.
    """
    if args.page == args.out:
        raise DataError(f"{args.out}: --out and --page name the same file")
    for path in (args.out, args.page):
        if path is None:
            continue
        if path.is_dir():
            raise DataError(f"{path} is a folder; give a file")
        if path.exists() and not args.overwrite:
            raise DataError(f"{path} is there already; --overwrite replaces it")

    # Only now: the imports take seconds, and --help needs none of them.
    from data.audit_page import render_audit
    from data.audit_report import run_audit
    from pages.files import write_file

    start = time.monotonic()
    audit = run_audit(args.pretrain, args.train, args.test, channels=args.channels, size=args.size)
    write_file(args.out, audit.report.to_json().encode())
    if args.page is not None:
        page = render_audit(audit, command=args.typed, version=args.version())
        write_file(args.page, page.encode())
    _say(audit.report)
    files = " and ".join(shlex.quote(str(path)) for path in (args.out, args.page) if path)
    print(f"written: {files}, in {time.monotonic() - start:.1f} s")
    return 0


def _say(report: AuditReport) -> None:
    words = {"pretrain": "pretraining", "train": "training"}
    for role, counts in report.counts.items():
        print(
            f"{counts.test_images:,} of {report.test_images:,} test images have a copy among "
            f"{counts.images:,} {words[role]} images: {counts.exact_pairs:,} exact and "
            f"{counts.near_pairs:,} near pairs"
        )
