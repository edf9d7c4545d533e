"""The command line of stage two: `python -m downstream COMMAND`."""

import argparse
import sys
from collections.abc import Sequence

from data.command_line import run
from downstream.commands import (
    curve,
    depth,
    embed,
    ensemble,
    evaluate,
    export,
    modes,
    plan,
    predict,
    report,
    serve,
    similarity,
    study,
    suggest,
    train,
)

_COMMANDS = (
    curve,
    study,
    plan,
    depth,
    similarity,
    modes,
    ensemble,
    train,
    predict,
    evaluate,
    export,
    serve,
    suggest,
    embed,
    report,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream",
        description="Reuse a pretrained encoder with few labels, and measure what it saves.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args, left = parser.parse_known_args(argv)
    if left:
        # Overrides that stand behind an option: argparse takes positionals in one piece only.
        if not hasattr(args, "overrides") or any(text.startswith("-") for text in left):
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        args.overrides += left
    if hasattr(args, "config") and args.config is None and not args.schema:
        parser.error(f"give a CONFIG, such as {args.preset}")

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import NO_SPACE, InputError

    try:
        status: int = args.run(args)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = error.filename or "the study's folder"
        print(
            f"error: no space left for {where} ({error.strerror}); rows that were written are "
            "kept, free some space and run the same command again",
            file=sys.stderr,
        )
        return 2
    return status


if __name__ == "__main__":
    run(main, when_stopped="stopped; the same command goes on with what was finished")
