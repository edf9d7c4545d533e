"""`curves.csv`: the mean curves of a study as a table for other programs."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from downstream.results import Row

CURVES = "curves.csv"
COLUMNS = ("arm", "budget", "mean", "low", "high", "macro_f1", "nll", "n", "seeds")


def curves_csv(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return one line per arm and budget.

    Accuracy with its 95 % interval (empty with a single draw) and macro F1 are fractions, nll is in
    nats; both are means over rows. `n` counts draws.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for arm, budgets in summary["arms"].items():
        for budget, found in budgets.items():
            own = [row for row in rows if (row.arm, row.budget) == (arm, int(budget))]
            macro_f1, nll = (
                float(np.mean([getattr(row, name) for row in own])) for name in ("macro_f1", "nll")
            )
            ends = (found["low"], found["high"])
            counts = (found["n"], found["seeds"])
            table.writerow([arm, budget, found["mean"], *ends, macro_f1, nll, *counts])
    return text.getvalue()
