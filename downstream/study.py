"""The study: every row of the plan that is not there yet."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from downstream.budgets import resolve_budgets
from downstream.config import CurveConfig
from downstream.curves_file import CURVES
from downstream.ranks import ALONE, Ranks
from downstream.results import Row
from downstream.runner import run_rows
from downstream.workbench import open_workbench

_EXPORTS = ("summary.json", CURVES, "report.html", "curve.png", "curve.svg")


def run_study(
    config: CurveConfig,
    *,
    overwrite: bool,
    known: Sequence[Row] = (),
    ranks: Ranks = ALONE,
) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        known: rows of a study on the same data and settings, taken where they are missing.
        ranks: the processes that share the rows.
    Returns:
        The study's folder, or None as `run_rows`.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    config = resolve_budgets(config)
    make = partial(open_workbench, config)
    return run_rows(
        config,
        make,
        Row,
        overwrite=overwrite,
        exports=_EXPORTS,
        known=known,
        free=("targets",),
        ranks=ranks,
    )
