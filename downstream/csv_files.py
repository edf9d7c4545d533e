"""A study's numbers as tables for other programs: its curves, its classes, its comparisons."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_CURVE_COLUMNS = (
    *("arm", "budget", "mean", "low", "high", "macro_f1", "nll", "n", "seeds"),
    *("macro_f1_low", "macro_f1_high", "nll_low", "nll_high", "ece", "ece_low", "ece_high"),
)
_CLASS_COLUMNS = ("arm", "budget", "class", "mean", "low", "high", "n", "seeds")
_COMPARED_COLUMNS = (
    *("arm", "control", "budget", "mean", "low", "high", "p", "p_holm", "n", "seeds"),
    *("labels_needed", "saved", "saved_low", "saved_high", "flag", "utility"),
)
_MISSING: Mapping[str, Any] = {"mean": None, "low": None, "high": None}


def curves_csv(summary: Mapping[str, Any]) -> str:
    """Return one line per arm and budget.

    Accuracy (`mean`), macro F1 and ece are fractions, nll is in nats; each with its 95 % interval,
    which is empty with a single draw. `n` counts draws.
    """
    lines = []
    for arm, budgets in summary["arms"].items():
        for budget, found in budgets.items():
            f1, nll, ece = (
                summary["measures"][arm][measure].get(budget, _MISSING)
                for measure in ("macro_f1", "nll", "ece")
            )
            lines.append(
                (
                    *(arm, budget, *_ends(found), f1["mean"], nll["mean"]),
                    *(found["n"], found["seeds"]),
                    *(*_ends(f1)[1:], *_ends(nll)[1:], *_ends(ece)),
                )
            )
    return _csv(_CURVE_COLUMNS, lines)


def classes_csv(summary: Mapping[str, Any]) -> str:
    """Return one line per arm, budget and class: accuracy with its interval, as fractions.

    Classes without test images have no line.
    """
    return _csv(
        _CLASS_COLUMNS,
        (
            (arm, budget, name, *_ends(found), found["n"], found["seeds"])
            for arm, budgets in summary["class_accuracies"].items()
            for budget, by_class in budgets.items()
            for name, found in zip(summary["classes"], by_class, strict=True)
            if found is not None
        ),
    )


def comparisons_csv(summary: Mapping[str, Any]) -> str:
    """Return one line per comparison and budget: difference in accuracy, and labels saved."""
    saved = {(e["arm"], e["control"], e["budget"]): e for e in summary["labels_saved"]}
    lines = []
    for found in summary["differences"]:
        key = (found["arm"], found["control"], found["budget"])
        labels = saved.get(key, {})
        interval = labels.get("interval") or {}
        lines.append(
            (
                *(*key, *_ends(found), found["p"], found["p_holm"], found["n"], found["seeds"]),
                *(labels.get("labels_needed"), labels.get("saved")),
                *(interval.get("low"), interval.get("high"), labels.get("flag")),
                labels.get("utility"),
            )
        )
    return _csv(_COMPARED_COLUMNS, lines)


CSV_FILES = {
    "curves.csv": curves_csv,
    "classes.csv": classes_csv,
    "comparisons.csv": comparisons_csv,
}
"""Name of each file -> what it holds, from a study's summary."""


def _ends(found: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return found["mean"], found["low"], found["high"]


def _csv(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(lines)
    return text.getvalue()
