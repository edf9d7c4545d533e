"""`python -m downstream curve`."""

from __future__ import annotations

import argparse

from downstream.commands.config_arguments import add_config_command, print_instead
from downstream.commands.say_cache import say_cache_size
from downstream.commands.say_copies import say_copies
from downstream.commands.sharing import add_sharing, end_without_report, ranks_of

_TEXT = """\
Run a label-efficiency study: accuracy against the number of labels, for a pretrained encoder
and for controls that have not seen it.

Rows that are in runs_dir/name/results.jsonl already are kept and the missing ones are computed,
so the same command goes on with a study that was stopped. The study ends with summary.json, CSV
files, the verdict, a table, report.html and its figures as PNG and SVG."""

_EXAMPLES = """\
examples:
  python -m downstream curve configs/downstream/quickstart.yaml
  python -m downstream curve configs/downstream/quickstart.yaml name=mine \\
      encoder=runs/mine/encoder.safetensors
  python -m downstream curve configs/downstream/curve.yaml \\
      encoder='[runs/a/encoder.safetensors, runs/b/encoder.safetensors]' name=two-seeds
  python -m downstream curve configs/downstream/quickstart.yaml arms='[frozen, random_frozen]'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands,
        "curve",
        short="run a label-efficiency study",
        text=_TEXT,
        examples=_EXAMPLES,
        preset="quickstart",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="say which rows are missing and about how long they take, and stop",
    )
    add_sharing(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a study, and write and print what it shows."""
    from downstream.audit_file import make_audit_file
    from downstream.config import CurveConfig
    from downstream.dry_run import plan_study
    from downstream.gallery_making import make_gallery
    from downstream.report import write_report
    from downstream.study import run_study
    from downstream.summary import summary_table, write_summary
    from training.config import load_config

    if print_instead(args, CurveConfig):
        return 0
    config = load_config(CurveConfig, args.config, args.overrides)
    if args.dry_run:
        print(plan_study(config))
        return 0
    ranks = ranks_of(args)
    folder = run_study(config, overwrite=args.overwrite, ranks=ranks)
    if folder is None or not ranks.owner:
        return end_without_report(args, ranks, config, folder)
    make_gallery(folder)
    make_audit_file(folder)
    summary = write_summary(folder)
    report = write_report(folder)
    say_copies(summary)
    print(f"\n{summary['verdict']}\n\n{summary_table(summary)}\n\nreport: {report}")
    say_cache_size(config.runs_dir)
    return 0
