"""A comparison of ensembles: every row that is not there yet."""

from functools import partial
from pathlib import Path

from downstream.ensembles.bench import open_bench
from downstream.ensembles.config import EnsembleConfig
from downstream.ensembles.rows import EnsembleRow
from downstream.ensembles.summary import SUMMARY, TABLES
from downstream.runner import run_rows


def run_ensembles(config: EnsembleConfig, *, overwrite: bool) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Returns:
        The folder, or None where a signal ended it before the last row.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    make = partial(open_bench, config)
    return run_rows(config, make, EnsembleRow, overwrite=overwrite, exports=(SUMMARY, TABLES))
