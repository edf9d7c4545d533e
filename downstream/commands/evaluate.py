"""`python -m downstream evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.commands.model_arguments import add_allow_external, add_fit, add_model_command

_TEXT = """\
Score a trained classifier on labelled images in shards that it has not seen: accuracy with a 95 %
interval, precision, recall and F1 of each class, which classes are taken for which, and whether
confidences are true. Writes metrics.json and report.html, which shows the worst mistakes.

Classes are matched by name where both the model and the shards' dataset.json name them, else by
number. Images that cannot be used, and those without a label, are counted and left out."""

_EXAMPLES = """\
examples:
  python -m downstream evaluate runs/train/model.safetensors 'datasets/mine/test-*.tar'
  python -m downstream evaluate runs/train/model.safetensors 'datasets/other/*.tar' --fit \\
      --out runs/train/on-other

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_model_command(
        commands, "evaluate", short="score a trained classifier", text=_TEXT, examples=_EXAMPLES
    )
    command.add_argument(
        "shards", metavar="SHARDS", nargs="+", help="WebDataset tars: paths, globs or braces"
    )
    command.add_argument(
        "--out", metavar="FOLDER", type=Path, help="default: evaluation, beside the model"
    )
    add_fit(command)
    command.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    add_allow_external(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score, write and say the scores."""
    from downstream.evaluate import evaluate
    from downstream.evaluation_page import metrics_table, write_evaluation

    folder = args.out or args.model.parent / "evaluation"
    found = evaluate(
        args.model,
        args.shards,
        folder,
        fit=args.fit,
        overwrite=args.overwrite,
        allow_external=args.allow_external,
    )
    if found is None:
        print("stopped; nothing was written")
        return 0
    page = write_evaluation(folder, found)
    print(f"{metrics_table(found)}\n\nreport: {page}")
    return 0
