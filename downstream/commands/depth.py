"""`python -m downstream depth`."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.commands.config_arguments import (
    add_config_command,
    print_instead,
    say_how_to_go_on,
)
from downstream.commands.say_cache import say_cache_size

_TEXT = """\
How many stages to reuse: the accuracy of a linear head on the lowest one, two, ... frozen stages of
each encoder, and of a random one's. Writes depth.json and depth.svg, and prints a table.

The same command goes on with one that was stopped."""

_EXAMPLES = """\
examples:
  python -m downstream depth configs/downstream/depth.yaml
  python -m downstream depth configs/downstream/depth.yaml budget=100 \\
      encoders='{mine: runs/mine/encoder.safetensors}'"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands, "depth", short="measure how many stages to reuse", text=_TEXT, examples=_EXAMPLES
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure each depth, and write and print what that shows."""
    from downstream.depth import DepthConfig, depth_table, run_depth
    from downstream.depth_figure import depth_svg
    from downstream.ranks import join_ranks
    from training.config import load_config

    if print_instead(args, DepthConfig):
        return 0
    config = load_config(DepthConfig, args.config, args.overrides)
    ranks = join_ranks()
    depths = run_depth(config, overwrite=args.overwrite, ranks=ranks)
    if not ranks.owner:
        return 0
    if depths is None:
        say_how_to_go_on(args)
        return 0
    folder = Path(config.runs_dir, config.name)
    picture = folder / "depth.svg"
    picture.write_text(depth_svg(depths, config.budget), encoding="utf-8")
    print(f"\n{depth_table(depths)}\n\nwrote {picture}")
    say_cache_size(folder)
    return 0
