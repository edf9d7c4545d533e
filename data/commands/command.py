"""What the commands of `python -m data` have in common: the form of their help, and of counts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


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
