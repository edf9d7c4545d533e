"""`python -m downstream study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from downstream.commands.config_arguments import (
    add_config_command,
    print_instead,
    say_how_to_go_on,
)
from downstream.commands.say_copies import say_copies

_TEXT = """\
Ask whether pretraining helped, for several encoders at once: accuracy against the number of labels
for each, and for controls that were not pretrained, on the same labels.

`encoders` names artifacts, or pretraining configs, which are run first, each seed a process of its
own; what is finished is kept, so the same command goes on with a study that was stopped. It ends
with a verdict for each encoder, a table, comparison.json and report.html; the folder of each
encoder's curve has a report of its own."""

_EXAMPLES = """\
examples:
  python -m downstream study configs/downstream/study.yaml
  python -m downstream study configs/downstream/study.yaml name=mine \\
      encoders='{mine: runs/mine/encoder.safetensors, other: runs/other/encoder.safetensors}'
  python -m downstream study configs/downstream/study.yaml name=seeds \\
      encoders='{plain: {pretrain: configs/pretrain/quickstart.yaml, seeds: [0, 1, 2]}}'

--overwrite begins the curves anew and keeps finished pretraining runs.
Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands,
        "study",
        short="pretrain and compare several encoders",
        text=_TEXT,
        examples=_EXAMPLES,
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a study of several encoders, and write and print what it shows."""
    from downstream.commands.say_cache import say_cache_size
    from downstream.comparison_page import accuracy_table, comparison_headlines
    from downstream.comparison_report import write_comparison
    from downstream.encoder_studies import run_encoder_studies
    from downstream.ranks import join_ranks
    from downstream.report import write_report
    from downstream.study_comparison import compare_studies
    from downstream.study_config import StudyConfig
    from downstream.study_folder import ENCODER_CURVES
    from training.config import load_config

    if print_instead(args, StudyConfig):
        return 0
    config = load_config(StudyConfig, args.config, args.overrides)
    ranks = join_ranks()
    studies = run_encoder_studies(config, overwrite=args.overwrite, ranks=ranks)
    if not ranks.owner:
        return 0
    if studies is None:
        say_how_to_go_on(args)
        return 0
    for study in studies:
        write_report(study)
    found = compare_studies(studies)
    folder = Path(config.runs_dir, config.name)
    page = write_comparison(found, folder, name=config.name)
    for name, files in found.studies.items():
        say_copies(files.summary, of=name)
    for name, files in found.studies.items():
        print(f"\n{name}: {files.summary['verdict']}")
    if len(studies) > 1:
        print("", *comparison_headlines(found), sep="\n")
    print(f"\n{accuracy_table(found)}\n\nreport: {page}")
    say_cache_size(str(folder / ENCODER_CURVES))
    return 0
