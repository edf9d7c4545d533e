"""The study: every row of the plan that is not there yet."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from downstream.audit_file import AUDIT
from downstream.budgets import resolve_budgets
from downstream.config import CurveConfig
from downstream.csv_files import CSV_FILES
from downstream.depth_arms import expand_depths
from downstream.gallery import GALLERY
from downstream.ranks import ALONE, Ranks
from downstream.results import Row
from downstream.runner import run_rows
from downstream.study_folder import FIGURES
from downstream.workbench import open_workbench

_EXPORTS = (
    *("summary.json", *CSV_FILES, "report.html", "curve.png", "curve.svg"),
    *(FIGURES, GALLERY, AUDIT),
)


def resolve_study(config: CurveConfig) -> CurveConfig:
    """Return the config with its budgets as numbers of labels and every arm by its own name.

    Raises:
        InputError, DataError, ModelError: as the study itself; one line.
    """
    return expand_depths(resolve_budgets(config))


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
    config = resolve_study(config)
    make = partial(open_workbench, config)
    return run_rows(
        config,
        make,
        Row,
        overwrite=overwrite,
        exports=_EXPORTS,
        known=known,
        free=("targets", "prices"),
        ranks=ranks,
    )
