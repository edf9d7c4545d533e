"""Sharing a study's rows among several processes: the arguments, and how such a process ends."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from downstream.commands.config_arguments import same_command, say_how_to_go_on

if TYPE_CHECKING:
    from downstream.ranks import Ranks
    from downstream.rows_config import RowsConfig

_STOPPED = 75
"""Exit status by which a batch script tells a shard that was stopped from one that is done."""


def add_sharing(command: argparse.ArgumentParser) -> None:
    """Add the options of a Slurm array."""
    group = command.add_argument_group(
        "on a cluster",
        "torchrun shares the rows among its ranks without an option; docs/study.md has more",
    )
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--slurm", metavar="N", type=int, help="begin the study, and queue an array of N tasks"
    )
    how.add_argument(
        "--shard",
        metavar="I/N",
        help="compute what the I-th of these tasks does, from 0 on; exits with 75 if stopped",
    )
    group.add_argument(
        "--sbatch",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of sbatch for --slurm, without its dashes; may be repeated",
    )
    group.add_argument(
        "--script",
        type=Path,
        default=Path("configs/cluster/study.sbatch"),
        help="the batch script of --slurm (configs/cluster/study.sbatch)",
    )


def ranks_of(args: argparse.Namespace) -> Ranks:
    """Return this process's place among those that share the rows.

    Raises:
        InputError: --shard or --slurm names no number of shards, or --overwrite is of one alone.
    """
    from downstream.ranks import Ranks, join_ranks
    from downstream.shards import read_shard
    from training.errors import InputError

    if args.slurm is not None:
        if args.slurm < 1:
            raise InputError(f"--slurm: found {args.slurm}; give the number of tasks, 1 or more")
        return Ranks(shard=None)
    if args.shard is None:
        return join_ranks()
    if args.overwrite:
        raise InputError("--overwrite: found with --shard, one of several; give it to --slurm")
    return Ranks(read_shard(args.shard), owner=False)


def end_without_report(
    args: argparse.Namespace, ranks: Ranks, config: RowsConfig, folder: Path | None
) -> int:
    """Say what comes next where this process has no whole study to report; return its status.

    Args:
        folder: the study's, None where rows are missing.
    Raises:
        InputError: as `training.submission.submit`.
    """
    if args.slurm is not None:
        _submit(args, config)
    elif args.shard is not None:
        if folder is None:
            return _STOPPED
        print(f"shard {args.shard} is done; when all are, to report: {same_command(args)}")
    elif ranks.owner:
        say_how_to_go_on(args)
    return 0


def _submit(args: argparse.Namespace, config: RowsConfig) -> None:
    from training.submission import given_options, submit

    job = submit(
        args.script,
        [args.command, str(args.slurm), args.config, *args.overrides],
        given_options(args.sbatch),
        folder=Path(config.runs_dir, config.name, "slurm"),
        tasks=args.slurm,
    )
    print(f"job {job.job_id}: an array of {args.slurm} task(s)")
    print(f"logs, once they run: {job.log}")
    print(f"state: squeue --jobs {job.job_id}; cancel: scancel {job.job_id}")
    print(f"when they have ended, to finish and report: {same_command(args)}")
