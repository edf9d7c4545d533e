"""`python -m data show`: images of shards, as a picture or in the terminal."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.commands.command import add_command, table_lines
from data.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_COLUMNS = 8
_COUNT, _COUNT_OF_CLASS = 24, 8

_TEXT = """\
Show some images with their labels, spread evenly over all: as a contact sheet with --out, else in
the terminal, in characters of 24-bit colours. Into a pipe or a file goes a table of their keys,
labels and sizes instead. Of more than three channels the first three are seen.

Of a packed folder one split is shown, the first unless --split names another."""

_EXAMPLES = """\
examples:
  python -m data show datasets/fashion-mnist-mini
  python -m data show datasets/fashion-mnist-mini --classes --out classes.png
  python -m data show 'shards/*.tar' --count 100 --out sheet.png"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    show = add_command(commands, "show", short="show some images", text=_TEXT, examples=_EXAMPLES)
    show.add_argument(
        "targets", metavar="FOLDER|SHARDS", nargs="+", help="a packed folder, or shards"
    )
    show.add_argument("--out", metavar="PNG", type=Path, help="write a contact sheet to this file")
    show.add_argument(
        "--count",
        metavar="N",
        type=int,
        help=f"how many images ({_COUNT}); with --classes, of each class ({_COUNT_OF_CLASS})",
    )
    show.add_argument("--classes", action="store_true", help="a row for each class")
    show.add_argument("--split", metavar="NAME", help="such as test")
    show.add_argument("--overwrite", action="store_true", help="replace the file of --out")
    show.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.count is not None and args.count < 1:
        raise DataError(f"count: {args.count}; give a number of images from 1")
    if args.out is not None and args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out} is there already; --overwrite replaces it")

    from data.contact_sheet import contact_sheet
    from data.shown_images import read_some
    from data.target_splits import open_targets
    from data.terminal_pictures import picture_lines
    from pages.files import write_file
    from pages.pictures import to_picture

    info, splits = open_targets(args.targets)
    split = args.split or next(iter(splits))
    if split not in splits:
        raise DataError(f"split: {split}; there are {', '.join(splits)}")
    count = args.count or (_COUNT_OF_CLASS if args.classes else _COUNT)
    shown = read_some(splits[split], count, by_class=args.classes)

    def said(label: int | None) -> str:
        if label is None:
            return "-"
        known = info.classes if info is not None else None
        return known[label] if known and label < len(known) else str(label)

    rows: list[list[tuple[Image.Image, str]]] = []
    for number, one in enumerate(shown):
        begins = number % _COLUMNS == 0
        if args.classes:
            begins = not rows or one.label != shown[number - 1].label
        if begins:
            rows.append([])
        rows[-1].append((to_picture(one.image), said(one.label)))
    if args.out is not None:
        file = io.BytesIO()
        contact_sheet(rows).save(file, "PNG")
        write_file(args.out, file.getvalue())
        print(f"{args.out}: {len(shown)} images of {split}")
    elif sys.stdout.isatty():
        for line in picture_lines(rows, width=shutil.get_terminal_size().columns):
            print(line)
    else:
        table: list[tuple[str, ...]] = [("key", "channels", "height", "width", "label")]
        table += [(one.key, *map(str, one.image.shape), said(one.label)) for one in shown]
        for line in table_lines(table):
            print(line)
    return 0
