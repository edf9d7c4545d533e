"""`python -m data fetch`: a well-known set from its official address."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from data.commands.command import add_command

_TEXT = """\
Get the 60,000 training and 10,000 test images of Fashion-MNIST as IDX files: from their official
address, else from the Debian package dataset-fashion-mnist (where apt-get is at hand; nothing is
installed, root is not needed). The contents are checked by sha256."""

_EXAMPLES = """\
examples:
  python -m data fetch fashion-mnist
  python -m data fetch fashion-mnist --out /data/fashion-mnist"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    fetch = add_command(
        commands, "fetch", short="get full Fashion-MNIST", text=_TEXT, examples=_EXAMPLES
    )
    fetch.add_argument("name", choices=("fashion-mnist",), help="the set to get")
    fetch.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("datasets/raw/fashion-mnist"),
        help="folder to write (datasets/raw/fashion-mnist)",
    )
    fetch.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.fetch import fetch_fashion_mnist

    fetch_fashion_mnist(args.out, report=lambda line: print(line, flush=True))
    print(f"{args.out}: 60,000 training and 10,000 test images, checked by sha256")
    out = shlex.quote(str(args.out))
    print(f"next: python -m data pack {out} --out datasets/fashion-mnist")
    return 0
