"""`python -m downstream predict`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from downstream.commands.model_arguments import add_allow_external, add_fit, add_model_command

_TEXT = """\
Write a CSV file with a trained classifier's prediction for every image of a folder, of an image
file, or of shards: file, prediction, confidence, error, and a probability for each class. An image
that cannot be used has its reason in the column `error`; the others are predicted all the same."""

_EXAMPLES = """\
examples:
  python -m downstream predict runs/train/model.safetensors path/to/photos --fit \\
      --out predictions.csv
  python -m downstream predict runs/train/model.safetensors 'datasets/mine/test-*.tar' \\
      --out predictions.csv --accuracy 0.95

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C, which keeps what is there; 2 bad input, or no
image that could be used."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    predict = add_model_command(
        commands, "predict", short="use a trained classifier", text=_TEXT, examples=_EXAMPLES
    )
    predict.add_argument("images", metavar="IMAGES", help="a folder, an image, or shards")
    predict.add_argument("--out", metavar="CSV", type=Path, required=True, help="the file to write")
    add_fit(predict)
    predict.add_argument(
        "--accuracy",
        metavar="SHARE",
        type=float,
        help="abstain (?) below the confidence from which so many were right, such as 0.95",
    )
    predict.add_argument("--overwrite", action="store_true", help="replace the file")
    add_allow_external(predict)
    predict.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, and say how many images could not be used."""
    from downstream.predict import predict

    found = predict(
        args.model,
        args.images,
        args.out,
        fit=args.fit,
        accuracy=args.accuracy,
        overwrite=args.overwrite,
        allow_external=args.allow_external,
    )
    abstained = f", {found.abstained} abstained from" if args.accuracy is not None else ""
    stopped = "stopped early; " if found.stopped else ""
    print(f"{stopped}wrote {args.out}: {found.images - found.failed} predictions{abstained}")
    if found.failed == found.images:
        print(
            f"error: none of {found.images:,} images could be used, the first: "
            f"{found.first_failure}; {args.out} says it of each, --overwrite replaces it",
            file=sys.stderr,
        )
        return 2
    if found.failed:
        print(
            f"warning: {found.failed:,} of {found.images:,} images could not be used, the first: "
            f"{found.first_failure}",
            file=sys.stderr,
        )
    return 0
