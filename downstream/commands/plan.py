"""`python -m downstream plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

_TEXT = """\
Say how many labels to buy next for a target accuracy, from the rows of a study.

Each arm that reaches the target has its labels read off its curve. For the others a power law is
fitted and checked on the largest budget, which is left out for that; where the fit is unstable
there is no number, but the reason."""

_EXAMPLES = """\
examples:
  python -m downstream plan runs/quickstart-curve --target 0.9

Exit status: 0 done; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    plan = commands.add_parser(
        "plan",
        help="say how many labels to buy next",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument("folder", metavar="STUDY_FOLDER", type=Path, help="the folder of the study")
    plan.add_argument(
        "--target", required=True, type=float, help="the accuracy to reach, such as 0.9"
    )
    plan.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what each arm needs."""
    from downstream.label_plan import label_plan
    from downstream.resampled_curves import mean_curves
    from downstream.summary import read_config_and_rows, scores_by_arm
    from training.errors import InputError

    if not 0 < args.target < 1:
        raise InputError(f"--target: found {args.target:g}; give an accuracy between 0 and 1")
    _, rows = read_config_and_rows(args.folder)
    print("\n".join(label_plan(mean_curves(scores_by_arm(rows)), args.target)))
    return 0
