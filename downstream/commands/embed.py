"""`python -m downstream embed`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

_TEXT = """\
Write an encoder's features of all images of some shards to a file, with their keys and, where
there are any, their labels (-1, or null, where one has none).

Images are read in order and encoded block by block: there may be more than memory holds. An
existing file is kept unless --overwrite is given; a new one appears at the end, whole.

  .npz      arrays keys [N], labels [N] and features [N, F], for numpy.load
  .parquet  columns key, label and features; needs pip install -e '.[parquet]'

key=value is one of a study's features.*, such as stages, grid, pooling, flip_average and views, or
channels, size, on_bad and max_bad_share of its data.*, or allow_external."""

_EXAMPLES = """\
examples:
  python -m downstream embed runs/quickstart/encoder.safetensors \\
      'datasets/fashion-mnist-mini/test-*.tar' --out features.npz
  python -m downstream embed runs/quickstart/encoder.safetensors \\
      'datasets/fashion-mnist-mini/*.tar' --out features.parquet grid=1 stages='[stage3]'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    embed = commands.add_parser(
        "embed",
        help="write an encoder's features of images to a file",
        description=_TEXT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    embed.add_argument("encoder", metavar="ENCODER", type=Path, help="an encoder.safetensors")
    embed.add_argument(
        "shards", metavar="SHARDS", help="WebDataset tars: paths, globs or braces, as in a config"
    )
    embed.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the defaults"
    )
    embed.add_argument("--out", metavar="FILE", type=Path, required=True, help=".npz or .parquet")
    embed.add_argument("--overwrite", action="store_true", help="replace an existing file")
    embed.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write features, and say of how many images."""
    from downstream.embed import EmbedConfig, embed
    from training.config import load_config

    # A pattern that the shell has expanded is several paths.
    shards = [args.shards, *(text for text in args.overrides if "=" not in text)]
    overrides = [text for text in args.overrides if "=" in text]
    config = load_config(EmbedConfig, os.devnull, overrides)  # every key has a default
    done = embed(args.encoder, shards, args.out, config, overwrite=args.overwrite)
    if done is None:
        print("stopped; nothing was written")
        return 0
    labels = {0: "no labels", done.images: "labels"}.get(done.labelled, f"{done.labelled:,} labels")
    print(f"wrote {args.out}: {done.features:,} features of {done.images:,} images, {labels}")
    return 0
