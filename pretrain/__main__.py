"""The command line of stage one: `python -m pretrain CONFIG [key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

EPILOG = """\
examples:
  python -m pretrain configs/pretrain/quickstart.yaml
  python -m pretrain configs/pretrain/quickstart.yaml name=trial steps=200 optimizer.lr=1e-3
  python -m pretrain configs/pretrain/quickstart.yaml name=trial --resume
  torchrun --nproc_per_node 2 -m pretrain configs/pretrain/quickstart.yaml name=two-ranks
  accelerate launch -m pretrain configs/pretrain/quickstart.yaml

The run lands in runs_dir/name/: config.yaml, log.jsonl, previews/, checkpoints/ and
encoder.safetensors, which `python -m downstream curve` reads. SIGTERM and Ctrl-C finish the step,
write a checkpoint and print the command that goes on. Exit status: 0 done, 2 bad input.
docs/cluster.md tells how to run it on a cluster.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain",
        description="Train a feature extractor on unlabeled images from WebDataset shards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file of the run")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run; start it where none exists"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an existing run first")
    parser.add_argument(
        "--interrupted-status",
        metavar="N",
        type=int,
        default=0,
        help="exit status of a run that a signal stopped after a checkpoint (0), for batch systems",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every value resolved, and stop"
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the config's JSON Schema for editors, and stop"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if args.config is None and not args.schema:
        parser.error("give a CONFIG, such as configs/pretrain/quickstart.yaml")

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pretrain.run import pretrain, print_config, print_schema
    from training.errors import InputError

    try:
        if args.schema:
            print_schema()
        elif args.print_config:
            print_config(args.config, args.overrides)
        else:
            result = pretrain(
                args.config, args.overrides, resume=args.resume, overwrite=args.overwrite
            )
            if result.status == "interrupted":
                return int(args.interrupted_status)
    except (InputError, DataError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
