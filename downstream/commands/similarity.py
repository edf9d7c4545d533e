"""`python -m downstream similarity`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

_TEXT = """\
Estimate how alike the task of pretraining and yours are, before any transfer: for each stage of an
encoder the accuracy of a small head on labelled images that it has not seen, beside that on fresh
weights, LogME, the H-score, and linear CKA with the classes. All is made of N labels, which count.
Prints a table and how many stages to reuse, with its certainty.

key=value is count=N (500), grid, seed, channels, size, on_bad, max_bad_share or allow_external."""

_EXAMPLES = """\
examples:
  python -m downstream similarity runs/quickstart/encoder.safetensors \\
      'datasets/fashion-mnist-mini/train-*.tar' count=200
  python -m downstream similarity runs/mine/encoder.safetensors 'datasets/other/train-*.tar' \\
      size=32 channels=3 --out similarity.json

Exit status: 0 done; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "similarity",
        help="estimate what each stage is worth to a task, before any transfer",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("encoder", metavar="ENCODER", type=Path, help="an encoder.safetensors")
    command.add_argument("shards", metavar="SHARDS", help="labelled WebDataset tars")
    command.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the defaults"
    )
    command.add_argument("--out", metavar="FILE", type=Path, help="the same as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print what that shows, and write it where that is asked for."""
    from downstream.task_similarity import (
        SimilarityConfig,
        as_json,
        similarity_table,
        task_similarity,
    )
    from pages.files import write_file
    from training.config import load_config

    # A pattern that the shell has expanded is several paths.
    shards = [args.shards, *(text for text in args.overrides if "=" not in text)]
    overrides = [text for text in args.overrides if "=" in text]
    config = load_config(SimilarityConfig, os.devnull, overrides)  # every key has a default
    found = task_similarity(args.encoder, shards, config)
    print(f"{similarity_table(found)}\n\n{found.verdict}")
    if args.out is not None:
        write_file(args.out, (json.dumps(as_json(found), indent=2) + "\n").encode())
        print(f"wrote {args.out}")
    return 0
