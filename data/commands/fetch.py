"""`python -m data fetch`: a well-known set from its official address."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from data.commands.command import add_command
from data.known_sets import KNOWN_SETS

_TEXT = """\
Get a well-known set from its official address, as its authors give it, and check it by the
checksums that they publish. A download that broke off goes on where it ended. Fashion-MNIST is
also looked for in the Debian package dataset-fashion-mnist (where apt-get is at hand; nothing is
installed, root is not needed).

NAME is one of
"""

_EXAMPLES = """\
examples:
  python -m data fetch fashion-mnist
  python -m data fetch cifar10 --out /data/cifar10"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    width = max(map(len, KNOWN_SETS))
    sets = "\n".join(f"  {name:{width}}  {known.images}" for name, known in KNOWN_SETS.items())
    fetch = add_command(
        commands, "fetch", short="get a well-known set", text=_TEXT + sets, examples=_EXAMPLES
    )
    fetch.add_argument("name", metavar="NAME", choices=sorted(KNOWN_SETS), help="the set to get")
    fetch.add_argument(
        "--out", metavar="DIR", type=Path, help="folder to write (datasets/raw/NAME)"
    )
    fetch.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.fetch import fetch_set

    known = KNOWN_SETS[args.name]
    out = args.out or Path("datasets/raw") / args.name
    fetch_set(known, out, report=lambda line: print(line, flush=True))
    kinds = {checksum.kind for checksum in known.files.values()}
    print(f"{out}: {known.images}, checked by {' and '.join(sorted(kinds))}")
    source = shlex.quote(str(out / known.place))
    print(f"next: python -m data pack {source} --out datasets/{args.name}")
    return 0
