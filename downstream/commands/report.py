"""`python -m downstream report`."""

from __future__ import annotations

import argparse
from pathlib import Path

_TEXT = """\
Write summary.json and report.html of a study from its rows, finished or not."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="write a study's report", description=_TEXT)
    report.add_argument("folder", metavar="RUN_DIR", type=Path, help="the folder of the study")
    report.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write summary.json and report.html."""
    from downstream.report import write_report
    from downstream.summary import write_summary

    write_summary(args.folder)
    print(f"wrote {write_report(args.folder)}")
    return 0
