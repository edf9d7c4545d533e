"""The report's tables on whole curves, ready for the page; none from summaries that lack them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from downstream.report_drawing import count
from downstream.report_study import StudyFiles, bounds_of
from downstream.report_style import ArmStyle
from downstream.report_tables import (
    NO_INTERVAL,
    Cell,
    Line,
    Table,
    gain_cell,
    interval_in_labels,
    points,
    value_cell,
)
from downstream.report_training import training_tables

_MEASURES = ("start", "slope", "asymptote", "area")


def curve_tables(study: StudyFiles) -> list[Table]:
    """Every table on whole curves that the summary has something for, in the page's order."""
    styles = study.styles()
    tables = [
        _measures(study.summary.get("curves", {}), study.summary.get("code_lengths", {}), styles),
        _differences(study.summary.get("curve_differences", []), styles),
        _targets(study.summary.get("labels_to_target", []), styles),
        *training_tables(study.summary.get("training", {}), study.budgets, styles),
        _laws(study.summary.get("power_laws", {}), study.summary.get("extrapolated", []), styles),
        _variances(study.summary.get("variances", {}), study.budgets, styles),
    ]
    return [table for table in tables if table.lines]


def _measures(
    curves: Mapping[str, Mapping[str, Any]],
    code_lengths: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, ArmStyle],
) -> Table:
    return Table(
        "measures-table",
        "Area, slope and code length",
        "Area: mean accuracy in percent over the logarithm of labels, from the smallest budget to "
        "the largest. Slope: points gained per tenfold labels between the two. Code length: bits "
        "that the labels of the largest budget cost where each block of them is coded by the "
        "classifier of the budget before it, whose test likelihood stands for theirs; less is "
        "better. 95 % intervals below.",
        "Arm",
        ("Area, %", "Slope", "Code length, bits"),
        [
            Line(
                style.label,
                [
                    _cell(curves[arm]["area"], lambda value: f"{100 * value:.1f}"),
                    _cell(curves[arm]["slope"], points),
                    _bits(code_lengths.get(arm)),
                ],
                code=arm,
            )
            for arm, style in styles.items()
            if curves.get(arm)
        ],
    )


def _bits(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("–")
    cell = _cell(entry["bits"], lambda value: count(round(value)))
    return Cell(cell.text, f"{cell.below}; {count(round(entry['uniform']))} without a classifier")


def _differences(entries: Sequence[Mapping[str, Any]], styles: Mapping[str, ArmStyle]) -> Table:
    pairs = dict.fromkeys((entry["arm"], entry["control"]) for entry in entries)
    found = {(e["arm"], e["control"], e["measure"]): e for e in entries}
    return Table(
        "curve-differences-table",
        "Higher start, higher slope, higher end",
        "Differences of curves in points, with draws paired and 95 % intervals: accuracy at the "
        "smallest budget that both arms have, gain per tenfold labels, accuracy at the largest, "
        "and mean accuracy over the logarithm of labels. Bold: the interval excludes zero.",
        "Comparison",
        ("Start", "Slope", "End", "Area"),
        [
            Line(
                styles[arm].label,
                [_difference(found[arm, control, measure]) for measure in _MEASURES],
                below=f"minus {styles[control].label}",
            )
            for arm, control in pairs
        ],
    )


def _difference(entry: Mapping[str, Any]) -> Cell:
    return gain_cell({**entry, "mean": entry["value"]})


def _cell(entry: Mapping[str, Any], show: Callable[[float], str]) -> Cell:
    return value_cell(entry["value"], entry["low"], entry["high"], show)


def _targets(entries: Sequence[Mapping[str, Any]], styles: Mapping[str, ArmStyle]) -> Table:
    targets = sorted({entry["target"] for entry in entries})
    found = {(entry["arm"], entry["target"]): entry for entry in entries}
    return Table(
        "targets-table",
        "Labels for an accuracy",
        "Labels that each arm needs for the accuracies asked for, interpolated on its mean curve "
        "over the logarithm of labels, with 95 % intervals. < or >: beyond the budgets that were "
        "run.",
        "Arm",
        [f"{100 * target:.4g} %" for target in targets],
        [
            Line(style.label, [_labels(found[arm, target]) for target in targets], code=arm)
            for arm, style in styles.items()
            if targets and (arm, targets[0]) in found
        ],
    )


def _labels(entry: Mapping[str, Any]) -> Cell:
    bound = {"never_reached": "> ", "below_start": "< "}.get(entry["flag"], "")
    interval = bounds_of(entry["interval"])
    return Cell(
        f"{bound}{count(round(entry['labels']))}",
        NO_INTERVAL if interval is None else interval_in_labels(interval),
    )


def _laws(
    laws: Mapping[str, Mapping[str, Any]],
    extrapolated: Sequence[Mapping[str, Any]],
    styles: Mapping[str, ArmStyle],
) -> Table:
    targets = sorted({entry["target"] for entry in extrapolated})
    found = {(entry["arm"], entry["target"]): entry for entry in extrapolated}
    return Table(
        "laws-table",
        "Beyond the largest budget",
        "The error as a + b / Nᶜ, with 95 % intervals: the accuracy that it levels off at, in "
        "percent, the rate c, and what it says of the largest budget when it is fitted without it. "
        "Labels for accuracies beyond the curve are extrapolated, and not where the fit is "
        "unstable.",
        "Arm",
        (
            "Levels off at, %",
            "Rate",
            "Largest budget, predicted, %",
            *(f"Labels for {100 * target:.4g} %" for target in targets),
        ),
        [
            Line(
                style.label,
                [
                    _limit(laws[arm]["asymptote"]),
                    _cell(laws[arm]["rate"], lambda value: f"{value:.2f}"),
                    _held_out(laws[arm]["held_out"]),
                    *(_extrapolated(found.get((arm, target))) for target in targets),
                ],
                code=arm,
            )
            for arm, style in styles.items()
            if arm in laws
        ],
    )


def _limit(error: Mapping[str, float]) -> Cell:
    low, high = 100 * (1 - error["high"]), 100 * (1 - error["low"])
    return Cell(f"{100 * (1 - error['value']):.1f}", f"{low:.1f} to {high:.1f}")


def _held_out(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("–", "too few budgets")
    predicted = _cell(entry["predicted"], lambda value: f"{100 * value:.1f}")
    return Cell(predicted.text, f"{predicted.below}; measured {100 * entry['measured']:.1f}")


def _extrapolated(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("–", "reached, see above")
    if entry["labels"] is None:
        return Cell("no answer", entry["refused"])
    interval = bounds_of(entry["interval"])
    assert interval is not None
    return Cell(count(round(entry["labels"])), interval_in_labels(interval))


def _variances(
    variances: Mapping[str, Mapping[str, Any]],
    budgets: Sequence[int],
    styles: Mapping[str, ArmStyle],
) -> Table:
    return Table(
        "variances-table",
        "Where the spread comes from",
        "Standard deviations in points of what moves a single accuracy: which images are labelled "
        "(draw), the seed of the encoder’s weights (seed), and the rest, which is the random "
        "numbers of a fit and the interaction of the two. Only for arms whose seeds are crossed "
        "with the draws. Each rests on few draws and seeds and is rough.",
        "Arm",
        [f"{count(budget)} labels" for budget in budgets],
        [
            Line(
                style.label,
                [_spread(variances[arm].get(str(budget))) for budget in budgets],
                code=arm,
            )
            for arm, style in styles.items()
            if variances.get(arm)
        ],
    )


def _spread(entry: Mapping[str, float] | None) -> Cell:
    if entry is None:
        return Cell("–")
    draw, seed, rest = (100 * math.sqrt(entry[part]) for part in ("draw", "seed", "residual"))
    return Cell(f"draw {draw:.1f}", f"seed {seed:.1f}, rest {rest:.1f}")
