"""`python -m data ls`: the packed sets below a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from data.commands.command import add_command, bytes_in_words, counts_in_words, table_lines

_TEXT = """\
List the packed sets below FOLDER: images of each split, their size and channels, bytes of the
shards, and classes."""

_EXAMPLES = """\
examples:
  python -m data ls
  python -m data ls /data/packed

Ends with 0, or with 1 where a dataset.json cannot be read."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    ls = add_command(commands, "ls", short="list packed sets", text=_TEXT, examples=_EXAMPLES)
    ls.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        default=Path("datasets"),
        help="where to look (datasets)",
    )
    ls.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from data.errors import DataError
    from data.npy import channels_in_words
    from data.set_list import bytes_of, packed_sets

    rows: list[tuple[str, ...]] = [("set", "images", "pixels", "in", "size", "classes")]
    errors = []
    for folder, info in packed_sets(args.folder):
        if isinstance(info, DataError):
            errors.append(info)
            continue
        channels, height, width = info.image_shape
        rows.append(
            (
                str(folder),
                counts_in_words(info.counts),
                f"{width} x {height}",
                channels_in_words(channels),
                bytes_in_words(bytes_of(folder, info)),
                f"{len(info.classes)}" if info.classes else "no labels",
            )
        )
    if len(rows) == 1 and not errors:
        raise DataError(f"{args.folder}: no packed set below; `python -m data pack` makes one")
    for line in table_lines(rows) if len(rows) > 1 else ():
        print(line)
    for error in errors:
        print(f"bad: {error}")
    return 1 if errors else 0
