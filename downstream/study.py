"""The study: every row of the plan that is not there yet."""

from functools import partial
from pathlib import Path

from downstream.config import CurveConfig
from downstream.curves_file import CURVES
from downstream.results import Row
from downstream.runner import run_rows
from downstream.workbench import open_workbench

_EXPORTS = ("summary.json", CURVES, "report.html", "curve.png", "curve.svg")


def run_study(config: CurveConfig, *, overwrite: bool) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Returns:
        The study's folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    make = partial(open_workbench, config)
    return run_rows(config, make, Row, overwrite=overwrite, exports=_EXPORTS, free=("targets",))
