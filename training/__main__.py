"""The command line around training: `python -m training schedule|find-lr|submit|compare|race`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig

_SCHEDULE = """\
Draw the learning rate at every step of a pretraining run, as its config and its length make it."""

_SCHEDULE_EXAMPLES = """\
examples:
  python -m training schedule configs/pretrain/quickstart.yaml --out lr.png
  python -m training schedule configs/pretrain/quickstart.yaml schedule.kind=cosine_restarts \\
      schedule.m_mul=0.8 steps=5000 --out restarts.png
  python -m training schedule configs/pretrain/quickstart.yaml schedule.kind=plateau --out p.png"""

_FIND_LR = """\
Learning-rate range test (Smith, 2017): a short run of a pretraining config whose learning rate
grows at every step, until the loss diverges. Nothing of the run is kept but the picture and, beside
it, a .json file with the learning rates and losses."""

_FIND_LR_EXAMPLES = """\
examples:
  python -m training find-lr configs/pretrain/quickstart.yaml --out find-lr.png
  python -m training find-lr configs/pretrain/quickstart.yaml optimizer.kind=sgd \\
      --to 100 --steps 200 --out sgd.png

The picture and the lines printed say which rates are too small, good and too large, where the loss
falls fastest, and a tenth of the rate at which it was lowest."""

_SUBMIT = """\
Put a pretraining run into Slurm's queue, through submitit. The config is checked at once; the job
runs the batch script, whose #SBATCH lines hold for whatever is not given here. Preempted or at its
time limit, the run writes a checkpoint, goes back into the queue and resumes."""

_SUBMIT_EXAMPLES = """\
examples:
  python -m training submit configs/pretrain/quickstart.yaml --partition gpu --time 2:00:00
  python -m training submit configs/pretrain/quickstart.yaml name=big batch_size=4096 \\
      --partition gpu --nodes 2 --gpus-per-node 8 --sbatch account=vision --sbatch qos=high

Needs submitit: pip install -e '.[slurm]'. docs/cluster.md tells more."""

_COMPARE = """\
Write a page that lays the curves of several runs over each other, with a table of what differs
between their configs and how they ended. Finished or not, runs are read as they are."""

_COMPARE_EXAMPLES = """\
examples:
  python -m training compare runs/quickstart runs/trial --out compare.html
  python -m training compare runs/optimizers/* --out optimizers.html --metric loss
  python -m training compare runs/a runs/b --out compare.html --metric accuracy --mode max"""

_RACE = """\
Run the variants of a pretraining config one after the other, each as a `python -m pretrain` of its
own. Ctrl-C stops the race after a checkpoint, and the same command goes on with it: finished
variants are skipped. A variant that fails, as by diverging, is noted and the others go on."""

_RACE_EXAMPLES = """\
examples:
  python -m training race configs/studies/optimizers.yaml
  python -m training race configs/studies/optimizers.yaml 'seeds=[0, 1, 2]' runs_dir=runs/seeds
  python -m training compare runs/optimizers/* --out optimizers.html

A study is a YAML file with base (a config of python -m pretrain), runs_dir, overrides of all
variants, variants: {name: [key=value, ...]} and, where wanted, seeds: [0, 1, ...].

Exit status: 0 every variant ran or the race was stopped, 1 some failed, 2 bad input."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Choose a learning rate and a schedule; race, compare and submit runs.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    schedule = command("schedule", "draw a config's learning rate", _SCHEDULE, _SCHEDULE_EXAMPLES)
    find_lr = command(
        "find-lr", "find a learning rate by a range test", _FIND_LR, _FIND_LR_EXAMPLES
    )
    for subparser, out in ((schedule, "lr.png"), (find_lr, "find-lr.png")):
        subparser.add_argument("config", metavar="CONFIG", help="YAML file of a pretraining run")
        subparser.add_argument(
            "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
        )
        subparser.add_argument("--out", type=Path, default=Path(out), help=f"PNG file ({out})")
    find_lr.add_argument(
        "--from", dest="first", type=float, default=1e-6, help="first learning rate (1e-6)"
    )
    find_lr.add_argument(
        "--to", dest="last", type=float, default=10.0, help="last learning rate (10)"
    )
    find_lr.add_argument("--steps", type=int, default=100, help="optimizer steps (100)")

    submit = command("submit", "put a run into Slurm's queue", _SUBMIT, _SUBMIT_EXAMPLES)
    submit.add_argument("config", metavar="CONFIG", help="YAML file of a pretraining run")
    submit.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the file's"
    )
    submit.add_argument("--partition", metavar="P", help="partition (the cluster's default)")
    submit.add_argument("--nodes", metavar="N", type=int, help="nodes (the script's: 1)")
    submit.add_argument(
        "--gpus-per-node", metavar="G", type=int, help="GPUs of each node (the script's: 8)"
    )
    submit.add_argument(
        "--ranks-per-node", metavar="R", type=int, help="processes on each node (one per GPU)"
    )
    submit.add_argument("--time", metavar="T", help="time limit, as 2:00:00 or 1-12:00:00")
    submit.add_argument(
        "--sbatch",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any other option of sbatch, without its dashes; may be repeated",
    )
    submit.add_argument(
        "--script",
        type=Path,
        default=Path("configs/cluster/slurm.sbatch"),
        help="the batch script (configs/cluster/slurm.sbatch)",
    )
    submit.add_argument(
        "--folder", type=Path, default=Path("slurm"), help="for the job's files and log (slurm)"
    )

    compare = command("compare", "compare runs on one page", _COMPARE, _COMPARE_EXAMPLES)
    compare.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folder")
    compare.add_argument(
        "--out",
        type=Path,
        default=Path("compare.html"),
        help="the page; a name in .png: the curves alone",
    )
    compare.add_argument("--metric", help="shown first and ranked by (the loss)")
    compare.add_argument(
        "--mode", choices=("min", "max"), default="min", help="which values are better (min)"
    )

    race = command("race", "run the variants of a study", _RACE, _RACE_EXAMPLES)
    race.add_argument("config", metavar="STUDY", help="YAML file, such as those in configs/studies")
    race.add_argument(
        "overrides", metavar="key=value", nargs="*", help="values that replace the study's"
    )
    race.add_argument("--jobs", type=int, default=1, help="variants at the same time (1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    args, left = parser.parse_known_args(argv)
    if left:
        # Overrides that stand behind an option: argparse takes positionals in one piece only.
        if args.command == "compare" or any(t.startswith("-") for t in left):
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        args.overrides += left

    # Only now: the imports take seconds, and --help needs none of them.
    from data.errors import DataError
    from models.errors import ModelError
    from pages.errors import PageError
    from training.errors import InputError

    try:
        match args.command:
            case "schedule":
                draw_schedule(args.config, args.overrides, args.out)
            case "find-lr":
                find_lr(args.config, args.overrides, args.out, args.first, args.last, args.steps)
            case "submit":
                submit(args)
            case "compare":
                compare(args.runs, args.out, args.metric, args.mode)
            case _:
                return race(args.config, args.overrides, args.jobs)
    except (InputError, DataError, ModelError, PageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def draw_schedule(path: str, overrides: Sequence[str], out: Path) -> None:
    """Draw the learning rate of a pretraining config."""
    from pages.files import write_file
    from pretrain.config import PretrainConfig
    from training.config import load_config
    from training.schedule_plot import describe_schedule, schedule_png
    from training.schedules import check_schedule

    config = load_config(PretrainConfig, path, overrides)
    total_steps = config.steps or _steps_of_epochs(config)
    check_schedule(config.schedule, total_steps)
    schedule, lr = config.schedule, config.optimizer.lr
    title = f"{config.name}: {schedule.kind}, {total_steps:,} steps"
    write_file(out, schedule_png(schedule, lr=lr, total_steps=total_steps, title=title))
    for line in describe_schedule(schedule, lr=lr, total_steps=total_steps):
        print(line)
    print(f"wrote {out}")


def _steps_of_epochs(config: PretrainConfig) -> int:
    import torch

    from pretrain.learning_set import learning_set

    learned = learning_set(config, config.data.open_images())
    batches = learned.batches(
        batch_size=config.batch_size, seed=config.seed, device=torch.device("cpu")
    )
    return batches.steps(config.epochs or 0)


def find_lr(
    path: str, overrides: Sequence[str], out: Path, first: float, last: float, steps: int
) -> None:
    """Run a range test of a pretraining config; write its picture and its numbers."""
    from pages.files import write_file
    from pretrain.config import PretrainConfig
    from pretrain.run import make_trainer
    from training.compute import make_accelerator
    from training.config import load_config
    from training.errors import InputError
    from training.find_lr import (
        check_optimizer,
        describe_range_test,
        range_schedule,
        range_test,
    )
    from training.find_lr_plot import range_test_png

    schedule = range_schedule(first, last, steps)
    config = load_config(PretrainConfig, path, [*overrides, f"optimizer.lr={first}"])
    check_optimizer(config.optimizer)
    if config.objective.kind == "stacked":
        raise InputError(
            "objective.kind: found 'stacked', each of whose phases would begin the sweep anew; "
            "find the rate of objective.kind autoencoder with the same encoder"
        )
    if config.objective.kind in ("gan", "vae_gan"):
        raise InputError(
            f"objective.kind: found {config.objective.kind!r}, neither of whose players' losses "
            "tells a good rate by falling; compare runs by gan/relative_fid or by a probe "
            "(python -m pretrain sweep)"
        )
    store = config.data.open_images()
    trainer = make_trainer(
        config, store, make_accelerator(config.compute), total_steps=steps, schedule=schedule
    )
    test = range_test(trainer)

    title = f"{config.name}: {config.optimizer.kind}, batches of {trainer.batches.batch_size:,}"
    write_file(out, range_test_png(test, title=title))
    numbers = {
        "lr": test.rates.tolist(),
        "loss": test.losses.tolist(),
        "smoothed_loss": test.smoothed.tolist(),
        "diverged": test.diverged,
    }
    numbers_file = out.with_suffix(".json")
    write_file(numbers_file, (json.dumps(numbers) + "\n").encode())
    for line in describe_range_test(test):
        print(line)
    print(f"wrote {out} and {numbers_file}")


def submit(args: argparse.Namespace) -> None:
    """Put a pretraining run into Slurm's queue, and say how to follow and cancel it."""
    from pretrain.config import PretrainConfig
    from training.config import load_config
    from training.refusals import refuse_contradictions
    from training.submission import given_options, job_shape, read_options
    from training.submission import submit as submit_script

    config = load_config(PretrainConfig, args.config, args.overrides)
    options: dict[str, str | int] = {**given_options(args.sbatch)}
    ranks = args.ranks_per_node
    if ranks is None and args.gpus_per_node is not None:
        ranks = max(1, args.gpus_per_node)
    given = {
        "partition": args.partition,
        "nodes": args.nodes,
        "gpus-per-node": args.gpus_per_node,
        "ntasks-per-node": ranks,
        "time": args.time,
    }
    options.update({key: value for key, value in given.items() if value is not None})
    nodes, per_node = job_shape({**read_options(args.script), **options})
    if config.steps is not None:  # else it takes the data to know the run's length
        refuse_contradictions(
            [config.optimizer],
            config.schedule,
            config.compute,
            config.clip,
            config.regularization,
            batch_size=config.batch_size,
            lengths=[config.steps],
            ranks=nodes * per_node,
        )
    job = submit_script(args.script, [args.config, *args.overrides], options, folder=args.folder)
    run = Path(config.runs_dir, config.name)
    print(f"job {job.job_id}: {nodes} node(s) x {per_node} rank(s), into {run}")
    print(f"log, once it runs: {job.log}")
    print(f"state: squeue --jobs {job.job_id}")
    print(f"cancel, after a checkpoint: scancel {job.job_id}")


def compare(runs: Sequence[Path], out: Path, metric: str | None, mode: str) -> None:
    """Write the page, or the picture, that compares runs."""
    from pages.files import write_file
    from training.comparison import compare_runs
    from training.comparison_figure import comparison_png
    from training.comparison_page import render_page

    comparison = compare_runs(runs, metric=metric, mode="max" if mode == "max" else "min")
    is_picture = out.suffix.lower() == ".png"
    write_file(out, comparison_png(comparison) if is_picture else render_page(comparison).encode())
    print(f"wrote {out}")


def race(path: str, overrides: Sequence[str], jobs: int) -> int:
    """Run a study's variants; return the exit status."""
    from pretrain.config import PretrainConfig
    from training.config import load_config
    from training.race import RaceConfig, run_race

    study = load_config(RaceConfig, path, overrides)
    study.check(PretrainConfig, source=path)
    result = run_race(study, jobs=jobs)
    again = shlex.join(["python", "-m", "training", "race", path, *overrides])
    if result.stopped:
        print(f"to go on: {again}")
        return 0
    if result.failed:
        print(f"failed: {', '.join(result.failed)}; to try these again: {again}", file=sys.stderr)
    print(f"next: python -m training compare {shlex.quote(study.runs_dir)}/*")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
