"""`python -m downstream train`."""

from __future__ import annotations

import argparse

from downstream.commands.config_arguments import add_config_command, print_instead

_TEXT = """\
Train a classifier for use: decide inside the labels how the encoder is reused (frozen, unfrozen
from the top while that pays, fewer stages, all stages), learn from all of them, and write
runs_dir/name/model.safetensors. Every comparison is printed and kept in decisions.jsonl; with
data.test the model is scored at the end."""

_EXAMPLES = """\
examples:
  python -m downstream train configs/downstream/train.yaml labels=500
  python -m downstream train configs/downstream/train.yaml name=frozen mode='{kind: frozen}'
  python -m downstream train configs/downstream/train.yaml name=top \\
      mode='{kind: partial, from_stage: stage3}'"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands,
        "train",
        short="train a classifier for use",
        text=_TEXT,
        examples=_EXAMPLES,
        resumes=False,
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train a classifier and keep it."""
    from downstream.train import train_classifier
    from downstream.train_config import TrainConfig
    from training.config import load_config

    if print_instead(args, TrainConfig):
        return 0
    config = load_config(TrainConfig, args.config, args.overrides)
    print(f"wrote {train_classifier(config, overwrite=args.overwrite)}")
    return 0
