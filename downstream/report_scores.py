"""The report's tables of scores besides accuracy; none from summaries that lack them."""

from collections.abc import Callable, Mapping
from typing import Any

from downstream.report_drawing import count
from downstream.report_study import StudyFiles
from downstream.report_tables import Cell, Line, Table, percent, value_cell


def _nats(value: float) -> str:
    return f"{value:.3f}"


_TABLES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    (
        "macro_f1",
        "Macro F1",
        "Macro F1 on the test images in percent: the mean over classes of the harmonic mean of "
        "precision and recall, in which a rare class counts as much as a frequent one.",
        percent,
    ),
    (
        "nll",
        "Negative log-likelihood",
        "Mean negative log-likelihood of the test images in nats: less is better, and a confident "
        "mistake costs most.",
        _nats,
    ),
    (
        "ece",
        "Calibration error",
        "Expected calibration error in percent: how far confidence lies from the share of test "
        "images that is right, in 15 bins of the confidence (Guo et al. 2017). 0 is a classifier "
        "whose confidence is true.",
        percent,
    ),
)


def score_tables(study: StudyFiles) -> list[Table]:
    """Every table for which some arm has a value."""
    measures, budgets = study.summary.get("measures", {}), study.budgets
    tables = []
    for measure, heading, caption, show in _TABLES:
        lines = [
            Line(
                style.label,
                [_cell(measures[arm][measure].get(str(budget)), show) for budget in budgets],
                code=arm,
            )
            for arm, style in study.styles().items()
            if measures.get(arm, {}).get(measure)
        ]
        if lines:
            tables.append(
                Table(
                    f"{measure}-table".replace("_", "-"),
                    heading,
                    f"{caption} 95 % intervals below.",
                    "Arm",
                    [f"{count(budget)} labels" for budget in budgets],
                    lines,
                )
            )
    return tables


def _cell(entry: Mapping[str, Any] | None, show: Callable[[float], str]) -> Cell:
    if entry is None:
        return Cell("–")
    low = entry["low"]
    # A t interval may leave the range that such a score can have.
    low = low if low is None else max(low, 0.0)
    return value_cell(entry["mean"], low, entry["high"], show)
