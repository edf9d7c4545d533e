"""The command line `python -m data`: images in, shards out, and what there is to know of them."""

import argparse
import errno
import shlex
import sys

from data.command_line import run
from data.commands import audit, fetch, ls, pack, show, stats, verify
from data.errors import DataError
from pages.errors import PageError

_COMMANDS = (fetch, pack, verify, ls, show, stats, audit)

_DESCRIPTION = """\
Images in, shards out.

  fetch   get a well-known set, such as cifar10
  pack    pack images into WebDataset shards with a dataset.json
  verify  read and decode every sample, and name the bad ones
  ls      list packed sets
  show    show some images, in the terminal or as a picture
  stats   say what images are like: classes, sizes, channels, equal ones
  audit   find test images of which copies are learned from

`python -m data COMMAND --help` explains each."""


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `python -m data`."""
    parser = argparse.ArgumentParser(
        prog="python -m data",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it worked, 1 for bad samples, 2 for what it cannot work with."""
    args = build_parser().parse_args(argv)
    args.typed = shlex.join(["python", "-m", "data", *(sys.argv[1:] if argv is None else argv)])
    args.version = _project_version
    try:
        return int(args.run(args))
    except (DataError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = getattr(args, "out", None) or getattr(args, "repair", None) or "the output"
        print(
            f"error: no space left for {place} ({error.strerror}); "
            "nothing half-written is left, free some and run this again",
            file=sys.stderr,
        )
        return 2


def _project_version() -> str:
    from training.environment import project_version

    return project_version()


if __name__ == "__main__":
    run(main, when_stopped="stopped; the same command goes on with what was finished")
