"""Arguments of the commands that read a config."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def add_config_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    short: str,
    text: str,
    examples: str,
    resumes: bool = True,
    preset: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command that takes a config, overrides, and what to do with a folder that is there.

    Args:
        short: its line in the list of commands; text, examples: its own help.
        resumes: it goes on with what it was stopped in.
        preset: which file of configs/downstream to name where none is given; None: its own.
    """
    command = commands.add_parser(
        name,
        help=short,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file")
    command.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )
    how = command.add_mutually_exclusive_group()
    if resumes:
        how.add_argument(
            "--resume", action="store_true", help="go on with the study; that is done anyway"
        )
    how.add_argument("--overwrite", action="store_true", help="remove what is there first")
    command.add_argument(
        "--print-config", action="store_true", help="print every value resolved, and stop"
    )
    command.add_argument(
        "--schema", action="store_true", help="print the config's JSON Schema for editors, and stop"
    )
    command.set_defaults(preset=f"configs/downstream/{preset or name}.yaml")
    return command


def print_instead(args: argparse.Namespace, model: type[BaseModel]) -> bool:
    """Print the schema or the resolved config where that is asked for; return whether it was."""
    from training.config import dump_config, load_config

    if args.schema:
        print(json.dumps(model.model_json_schema(), indent=2))
    elif args.print_config:
        print(dump_config(load_config(model, args.config, args.overrides)), end="")
    else:
        return False
    return True


def same_command(args: argparse.Namespace) -> str:
    """Return the command line that goes on with what was begun."""
    return shlex.join(["python", "-m", "downstream", args.command, args.config, *args.overrides])


def say_how_to_go_on(args: argparse.Namespace) -> None:
    """Print the command that goes on with what was stopped."""
    print(f"stopped; to go on: {same_command(args)}")
