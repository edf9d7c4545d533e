"""`python -m downstream modes`."""

from __future__ import annotations

import argparse
import json

from downstream.commands.config_arguments import add_config_command, print_instead
from downstream.commands.sharing import add_sharing, end_without_report, ranks_of

_TEXT = """\
Compare ways to reuse an encoder: test accuracy of each mode of `train`, automatic and single, at
each number of labels, on the same draws.

Rows that are in runs_dir/name/results.jsonl already are kept and the missing ones are computed,
so the same command goes on with a study that was stopped. It ends with a table, how far the
automatic mode is from the best single one in hindsight, summary.json and modes.svg."""

_EXAMPLES = """\
examples:
  python -m downstream modes configs/downstream/modes.yaml
  python -m downstream modes configs/downstream/modes.yaml name=two budgets='[100, 1000]' \\
      modes='{frozen: {kind: frozen}, auto: {kind: auto}}'

Exit status: 0 done, or stopped by SIGTERM or Ctrl-C; 2 bad input."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_config_command(
        commands, "modes", short="compare ways to reuse an encoder", text=_TEXT, examples=_EXAMPLES
    )
    add_sharing(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute each row, and write and print what they show."""
    from downstream.mode_figure import modes_svg
    from downstream.mode_rows import ModeRow
    from downstream.mode_study import PICTURE, SUMMARY, run_modes
    from downstream.mode_summary import automatic_lines, mode_table, summarize_modes
    from downstream.modes_config import ModesConfig
    from downstream.results import RESULTS, read_rows
    from training.config import load_config

    if print_instead(args, ModesConfig):
        return 0
    config = load_config(ModesConfig, args.config, args.overrides).resolved()
    ranks = ranks_of(args)
    folder = run_modes(config, overwrite=args.overwrite, ranks=ranks)
    if folder is None or not ranks.owner:
        return end_without_report(args, ranks, config, folder)
    summary = summarize_modes(config, read_rows(folder / RESULTS, ModeRow))
    text = json.dumps(summary.as_json(), indent=2) + "\n"
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    print("\n".join(["", mode_table(summary), "", *automatic_lines(summary)]))
    if summary.automatic:
        picture = folder / PICTURE
        picture.write_text(modes_svg(summary, summary.automatic[0]), encoding="utf-8")
        print(f"\nwrote {picture}")
    return 0
