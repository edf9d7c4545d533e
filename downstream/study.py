"""The study: every row of the plan that is not there yet."""

from functools import partial
from pathlib import Path

from downstream.config import CurveConfig
from downstream.results import Row
from downstream.runner import run_rows
from downstream.workbench import open_workbench

_EXPORTS = ("summary.json", "report.html", "curve.png", "curve.svg")


def run_study(config: CurveConfig, *, overwrite: bool) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Returns:
        The study's folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    folder = Path(config.runs_dir, config.name)
    complete = run_rows(
        folder,
        # How many processes share the work changes no row.
        config.model_copy(update={"workers": None}),
        partial(open_workbench, config),
        Row,
        overwrite=overwrite,
        exports=_EXPORTS,
        workers=config.workers,
    )
    return folder if complete else None
