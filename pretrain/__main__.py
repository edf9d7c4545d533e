"""The command line of stage one: `python -m pretrain [sweep | recommend] ...`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data.command_line import run

EPILOG = """\
examples:
  python -m pretrain configs/pretrain/quickstart.yaml
  python -m pretrain configs/pretrain/quickstart.yaml name=trial steps=200 optimizer.lr=1e-3
  python -m pretrain configs/pretrain/quickstart.yaml name=trial --resume
  torchrun --nproc_per_node 2 -m pretrain configs/pretrain/quickstart.yaml name=two-ranks
  accelerate launch -m pretrain configs/pretrain/quickstart.yaml
  python -m pretrain sweep --help
  python -m pretrain recommend --help

The run lands in runs_dir/name/: config.yaml, log.jsonl, previews/, checkpoints/ and
encoder.safetensors, which `python -m downstream curve` reads. SIGTERM and Ctrl-C finish the step,
write a checkpoint and print the command that goes on. Exit status: 0 done, 2 bad input.
docs/cluster.md tells how to run it on a cluster.
"""

_SWEEP = """\
Run every combination of some values of a pretraining config, each as a `python -m pretrain` of its
own, and write a page that ranks them by the loss on images held out or by the online probe. Ctrl-C
stops it after a checkpoint, and the same command goes on with it."""

_SWEEP_EXAMPLES = """\
examples:
  python -m pretrain sweep configs/pretrain/denoising.yaml data.held_out=0.1 \\
      'optimizer.lr=[0.003, 0.01]' 'optimizer.kind=[adamw, lion]' --out sweep.html
  python -m pretrain sweep configs/pretrain/sparse.yaml steps=2000 \\
      'probe.shards=datasets/fashion-mnist/train-*.tar' 'objective.sparsity.weight=[1e-4, 1e-3]'

A value in brackets is an axis of the grid; a list for all runs is an axis of one: 'a.b=[[1, 2]]'.
Losses compare only where the objective is the same: rank by the probe where an axis changes it. The
probe's labels then count among those of whatever is reported.

Exit status: 0 every run ended or the sweep was stopped, 1 some failed, 2 bad input."""


_RECOMMEND = """\
Train several presets for some seconds each, let the better half go on for longer, and rank them:
by heads that are cross-validated inside a few labels, or without any label by how many directions
the features use, how their variances fall, and whether views of an image lie together. Prints the
ranking with its certainty and the command of the full run, and keeps all in DIR/recommend.json."""

_RECOMMEND_EXAMPLES = """\
examples:
  python -m pretrain recommend 'datasets/fashion-mnist-mini/train-*.tar' --budget 120
  python -m pretrain recommend 'datasets/mine/train-*.tar' --labels 'datasets/mine/train-*.tar' \\
      --count 200 --presets denoising,gan_rotation,masked_conv data.size=32

The labels that choose count among those of whatever is reported. Ctrl-C or a kill loses at most the
run at hand, and the same command goes on.

Exit status: 0 done or stopped, 2 bad input."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain",
        description="Train a feature extractor on unlabeled images from WebDataset shards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file of the run")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run; start it where none exists"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an existing run first")
    parser.add_argument(
        "--interrupted-status",
        metavar="N",
        type=int,
        default=0,
        help="exit status of a run that a signal stopped after a checkpoint (0), for batch systems",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print every value resolved, and stop"
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the config's JSON Schema for editors, and stop"
    )
    return parser


def build_recommend_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m pretrain recommend`."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain recommend",
        description=_RECOMMEND,
        epilog=_RECOMMEND_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", metavar="SHARDS", help="WebDataset tars: a path, glob or braces")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="in all runs")
    parser.add_argument("--labels", metavar="SHARDS", help="tars with labels, to rank by them")
    parser.add_argument("--count", metavar="N", type=int, help="how many of these labels (500)")
    parser.add_argument(
        "--budget", metavar="SECONDS", type=float, default=300, help="for all runs (300)"
    )
    parser.add_argument(
        "--presets", metavar="A,B,...", help="files in configs/pretrain, or paths (a choice of 8)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/recommend"), help="folder (runs/recommend)"
    )
    return parser


def build_sweep_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m pretrain sweep`."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain sweep",
        description=_SWEEP,
        epilog=_SWEEP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file of a pretraining run")
    parser.add_argument(
        "arguments", metavar="key=value", nargs="*", help="key=[a, b]: an axis; else: in all runs"
    )
    parser.add_argument("--out", type=Path, default=Path("sweep.html"), help="page (sweep.html)")
    parser.add_argument(
        "--metric", help="what to rank by (held_out/loss, or without it probe_accuracy)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "sweep":
        return main_of_sweep(argv[1:])
    if argv and argv[0] == "recommend":
        return main_of_recommend(argv[1:])
    parser = build_parser()
    args = parser.parse_intermixed_args(argv)
    if args.config is None and not args.schema:
        parser.error("give a CONFIG, such as configs/pretrain/quickstart.yaml")

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pretrain.run import pretrain, print_config, print_schema
    from training.errors import InputError

    try:
        if args.schema:
            print_schema()
        elif args.print_config:
            print_config(args.config, args.overrides)
        else:
            result = pretrain(
                args.config, args.overrides, resume=args.resume, overwrite=args.overwrite
            )
            if result.status == "interrupted":
                return int(args.interrupted_status)
    except (InputError, DataError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main_of_sweep(argv: Sequence[str]) -> int:
    """Run `python -m pretrain sweep`; return the exit status."""
    args = build_sweep_parser().parse_intermixed_args(argv)

    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import InputError

    try:
        return sweep(args)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def main_of_recommend(argv: Sequence[str]) -> int:
    """Run `python -m pretrain recommend`; return the exit status."""
    args = build_recommend_parser().parse_intermixed_args(argv)

    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import InputError

    try:
        recommend(args)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def recommend(args: argparse.Namespace) -> None:
    """Compare presets as the arguments ask for, and print what that recommends."""
    from pretrain.recommend import PRESETS, finish, make_plan, take_runs
    from pretrain.recommendation import ranking_table, recommendation

    plan = make_plan(
        args.shards,
        args.presets.split(",") if args.presets else PRESETS,
        args.overrides,
        seconds=args.budget,
        labels=args.labels,
        count=args.count,
    )
    runs = take_runs(plan, args.out)
    if runs is None:
        print("stopped; the same command goes on")
        return
    found = recommendation(plan, runs)
    finish(args.out, found.as_json())
    seconds = sum(run.seconds for run in runs)
    print(f"\n{ranking_table(found)}\n\n{found.certainty}")
    print(f"took {seconds:.0f} s of {args.budget:g}; wrote {args.out / 'recommend.json'}")
    print(f"next: {found.command}")


def sweep(args: argparse.Namespace) -> int:
    """Run what a sweep's arguments ask for and write its page; return the exit status."""
    from pages.files import write_file
    from pretrain.sweep import plan_sweep, rank_sweep
    from training.comparison_page import render_page
    from training.race import run_race

    plan = plan_sweep(args.config, args.arguments, metric=args.metric)
    result = run_race(plan.race, jobs=args.jobs)
    comparison = rank_sweep(plan)
    write_file(args.out, render_page(comparison).encode())
    for place, entry in enumerate(comparison.entries, start=1):
        value = "none" if entry.final is None else f"{entry.final:.4g}"
        print(f"{place}. {entry.label}: {comparison.metric} {value}, {entry.run.ending}")
    if comparison.note:
        print(comparison.note)
    print(f"wrote {args.out}")
    again = ["sweep", args.config, *args.arguments, "--out", str(args.out)]
    if args.metric:
        again += ["--metric", args.metric]
    if result.stopped:
        print(f"to go on: python -m pretrain {shlex.join(again)}")
        return 0
    if result.failed:
        print(
            f"failed: {', '.join(result.failed)}; the same command tries them again",
            file=sys.stderr,
        )
    return 1 if result.failed else 0


if __name__ == "__main__":
    run(main, when_stopped="stopped before the first step; the same command begins again")
