"""`python -m downstream ensemble`."""

from __future__ import annotations

import argparse

from downstream.commands.config_arguments import add_config_command, print_instead
from downstream.commands.say_cache import say_cache_size
from downstream.commands.sharing import add_sharing, end_without_report, ranks_of

_TEXT = """\
Compare ensembles with their members: several seeds, the top configurations, snapshots of one run,
averages of weights, and several encoders. Each row has the scores of an ensemble and of every
member; at the end come summary.json and tables of the gain over the best member, with intervals
over draws, and of the cost (ensembles.md).

The same command goes on with one that was stopped."""

_EXAMPLES = """\
examples:
  python -m downstream ensemble configs/downstream/ensemble.yaml
  python -m downstream ensemble configs/downstream/ensemble.yaml name=two 'kinds=[seeds, ema]'
  python -m downstream ensemble configs/downstream/ensemble.yaml name=encoders \\
      encoders='{autoencoder: runs/a/encoder.safetensors, gan: runs/b/encoder.safetensors}' \\
      'kinds=[concatenated, averaged, averaged_finetuned]'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands,
        "ensemble",
        short="compare ensembles with their members",
        text=_TEXT,
        examples=_EXAMPLES,
    )
    add_sharing(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute the rows, and write and print what they show."""
    from downstream.ensembles.config import EnsembleConfig
    from downstream.ensembles.run import run_ensembles
    from downstream.ensembles.summary import TABLES, write_ensembles
    from training.config import load_config

    if print_instead(args, EnsembleConfig):
        return 0
    config = load_config(EnsembleConfig, args.config, args.overrides)
    ranks = ranks_of(args)
    folder = run_ensembles(config, overwrite=args.overwrite, ranks=ranks)
    if folder is None or not ranks.owner:
        return end_without_report(args, ranks, config, folder)
    print(f"\n{write_ensembles(folder)}\nwrote {folder / TABLES}")
    say_cache_size(config.runs_dir)
    return 0
