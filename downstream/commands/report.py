"""`python -m downstream report`."""

from __future__ import annotations

import argparse
from pathlib import Path

_TEXT = """\
Write summary.json, CSV files, report.html and its figures of a study from its rows, finished or
not. Of several studies on the same data and with the same seed, write report.html and
comparison.json, which put their arms side by side and compare them draw by draw, into a folder of
their own."""

_EXAMPLES = """\
examples:
  python -m downstream report runs/quickstart-curve
  python -m downstream report runs/denoising-curve runs/gan-curve --out runs/compared"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report",
        help="write the report of a study, or of several side by side",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "folders", metavar="RUN_DIR", type=Path, nargs="+", help="the folder of a study"
    )
    report.add_argument(
        "--out", metavar="FOLDER", type=Path, help="of several studies: where the page goes"
    )
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write what one study shows, or several."""
    from downstream.comparison_page import comparison_headlines
    from downstream.comparison_report import write_comparison
    from downstream.report import write_report
    from downstream.results import RESULTS
    from downstream.study_comparison import compare_studies
    from downstream.summary import write_summary
    from training.errors import InputError

    several = len(args.folders) > 1
    if several and args.out is None:
        raise InputError("--out: several studies need a folder for their page; give one")
    if args.out is not None and not several:
        raise InputError("--out: one study's report lies in its own folder; leave it out")
    if args.out is not None and (args.out / RESULTS).exists():
        raise InputError(
            f"--out: {args.out} holds a study, whose page it would replace; name another folder"
        )
    for folder in args.folders:
        write_summary(folder)
    if not several:
        print(f"wrote {write_report(args.folders[0])}")
        return 0
    found = compare_studies(args.folders)
    page = write_comparison(found, args.out, name=args.out.name)
    print(*comparison_headlines(found), "", f"wrote {page}", sep="\n")
    return 0
