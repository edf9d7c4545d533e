"""`python -m downstream suggest`."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.commands.model_arguments import add_allow_external

_TEXT = """\
Write a CSV file of the images to label next, the most urgent first: rank, shard, key, why.

  typicality   while labels are few: the most typical image of each cluster without a label
               (TypiClust, Hacohen et al. 2022)
  uncertainty  later: images that a classifier is unsure of, all different
  auto         uncertainty for a model.safetensors from 20 labels for each class on

--labelled says which images have a label and are left out: cls, those with a .cls in the shards, or
a CSV file with their keys in a column `key`, such as an earlier file of suggestions."""

_EXAMPLES = """\
examples:
  python -m downstream suggest runs/mine/encoder.safetensors 'datasets/mine/train-*.tar' \\
      --count 50 --out suggestions.csv
  python -m downstream suggest runs/train/model.safetensors 'datasets/mine/train-*.tar' \\
      --count 50 --labelled suggestions.csv --out next.csv

Exit status: 0 done; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "suggest",
        help="say which images to label next",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "model", metavar="ENCODER|MODEL", type=Path, help="encoder.safetensors, model.safetensors"
    )
    command.add_argument(
        "shards", metavar="SHARDS", nargs="+", help="WebDataset tars: paths, globs or braces"
    )
    command.add_argument("--count", metavar="N", type=int, required=True, help="how many images")
    command.add_argument("--out", metavar="CSV", type=Path, required=True, help="the file to write")
    command.add_argument("--labelled", metavar="cls|CSV", help="which images have a label")
    command.add_argument(
        "--by", choices=("auto", "typicality", "uncertainty"), default="auto", help="see above"
    )
    command.add_argument("--seed", type=int, default=0, help="of the clusters (%(default)s)")
    command.add_argument(
        "--fit", action="store_true", help="bring images to the size and channels that are taken"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the file")
    add_allow_external(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the suggestions, and say how they were found."""
    from downstream.suggest import suggest

    done = suggest(
        args.model,
        args.shards,
        args.out,
        count=args.count,
        labelled=args.labelled,
        by=args.by,
        seed=args.seed,
        fit=args.fit,
        overwrite=args.overwrite,
        allow_external=args.allow_external,
    )
    print(
        f"wrote {args.out}: {done.suggested:,} of {done.unlabelled:,} images without a label, by "
        f"{done.by}; {done.labelled:,} have one that --labelled speaks of"
    )
    return 0
