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
number. A model of several labels has average precisions and scores of each label, one of quantities
its errors; their labels, and other ones than those in the shards, come from --labels.
Images that cannot be used, and those without a label, are counted and left out."""

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
    command.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="CSV file of labels by key, as training takes it; default: those in the shards",
    )
    add_fit(command)
    command.add_argument("--overwrite", action="store_true", help="replace what is in the folder")
    add_allow_external(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score, write and say the scores."""
    from downstream.classify import open_classifier
    from downstream.evaluate import evaluate
    from downstream.evaluate_values import evaluate_values
    from downstream.evaluation_page import check_folder, metrics_table, write_evaluation
    from downstream.values_page import values_table, write_values
    from models.outputs import Classes
    from training.errors import InputError

    folder = args.out or args.model.parent / "evaluation"
    check_folder(folder, overwrite=args.overwrite)
    model = open_classifier(args.model, allow_external=args.allow_external)
    output = model.header.output
    written: tuple[str, Path] | None = None
    if isinstance(output, Classes):
        scored = evaluate(model, args.model, args.shards, labels=args.labels, fit=args.fit)
        if scored is not None:
            written = metrics_table(scored), write_evaluation(folder, scored)
    elif args.labels is None:
        raise InputError(
            f"--labels: {args.model} is a model of {output.kind}, whose labels a CSV file says; "
            "give one"
        )
    else:
        found = evaluate_values(model, args.model, args.shards, labels=args.labels, fit=args.fit)
        if found is not None:
            written = values_table(found), write_values(folder, found)
    if written is None:
        print("stopped; nothing was written")
        return 0
    table, page = written
    print(f"{table}\n\nreport: {page}")
    return 0
