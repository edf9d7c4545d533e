"""What the commands of `python -m data` have in common: the form of help, numbers and tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    short: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        short: its line in the list of commands; text, examples: its own help.
    """
    return commands.add_parser(
        name,
        help=short,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return images per split, such as `8,000 train + 2,000 test`."""
    return " + ".join(f"{count:,} {split}" for split, count in counts.items())


def bytes_in_words(count: int) -> str:
    """Return a number of bytes such as `5.1 MB`."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count:,} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: its first column to the left, the last as it is, others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *middle = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([row[0].ljust(len(first)), *middle[:-1], row[-1]]).rstrip()
