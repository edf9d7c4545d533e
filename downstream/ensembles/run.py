"""A comparison of ensembles: every row that is not there yet."""

from functools import partial
from pathlib import Path

from downstream.ensembles.bench import open_bench
from downstream.ensembles.config import EnsembleConfig
from downstream.ensembles.rows import EnsembleRow
from downstream.ensembles.summary import SUMMARY, TABLES
from downstream.ranks import ALONE, Ranks
from downstream.runner import run_rows


def run_ensembles(config: EnsembleConfig, *, overwrite: bool, ranks: Ranks = ALONE) -> Path | None:
    """Compute the rows that are missing in runs_dir/name/results.jsonl.

    Args:
        ranks: the processes that share the rows.
    Returns:
        The folder, or None as `run_rows`.
    Raises:
        InputError, DataError, ModelError: one line; the folder then is as it was.
    """
    make = partial(open_bench, config)
    return run_rows(
        config, make, EnsembleRow, overwrite=overwrite, exports=(SUMMARY, TABLES), ranks=ranks
    )
