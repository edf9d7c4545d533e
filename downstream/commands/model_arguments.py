"""Arguments of the commands that use a trained classifier."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_model_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    short: str,
    text: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command whose first argument is a trained classifier.

    Args:
        short: its line in the list of commands; text, examples: its own help.
    """
    command = commands.add_parser(
        name,
        help=short,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", type=Path, help="a model.safetensors")
    return command


def add_fit(command: argparse.ArgumentParser) -> None:
    """Add --fit, for images of another size or other channels."""
    command.add_argument(
        "--fit", action="store_true", help="bring images to the size and channels of the model"
    )


def add_allow_external(command: argparse.ArgumentParser) -> None:
    """Add --allow-external, for encoders that are a user's own code."""
    command.add_argument(
        "--allow-external",
        action="store_true",
        help="import and run the code that an encoder of kind external names",
    )
