"""`summary.json` and `curves.csv`: what a study shows, from the files in its folder alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from downstream.arms import Arm
from downstream.break_even import break_even, pretraining_price, worth_of
from downstream.code_length import code_lengths
from downstream.comparing import comparisons_of
from downstream.config import CurveConfig
from downstream.copy_notes import copy_warnings
from downstream.copy_scores import copy_scores
from downstream.costs import arm_costs, pretraining_cost
from downstream.csv_files import CSV_FILES
from downstream.depth_choice import depth_choices, depths_of
from downstream.extrapolation import extrapolate
from downstream.inference import arm_inference, pretraining_saw_test
from downstream.labels_to_target import labels_to_targets
from downstream.leaks import Leaks
from downstream.learning_curve import curve_measures
from downstream.notes import arm_notes, study_notes, tuning_caveat
from downstream.plan import arms_in_order, planned_rows
from downstream.prices import Prices
from downstream.resampled_curves import MeanCurve, mean_curves
from downstream.results import Row, read_rows
from downstream.score_intervals import (
    MEASURES,
    class_differences,
    class_intervals,
    measure_intervals,
)
from downstream.source_labels import source_labels_caveat, study_source_labels
from downstream.statistics import crossed_table, share_interval
from downstream.study_folder import check_study_folder
from downstream.training_curves import (
    steps_to_accuracy,
    training_curves,
    training_differences,
)
from downstream.two_way import variance_components
from downstream.verdict import Comparison, verdict
from models.artifact import read_artifact
from pages.files import write_file
from training.config import load_config
from training.errors import InputError

ScoresByBudget = dict[int, dict[tuple[int, int], float]]


def read_config_and_rows(folder: Path) -> tuple[CurveConfig, list[Row]]:
    """Read what a study was asked for and the rows that it has.

    Raises:
        InputError: the folder holds no study, or one without rows.
    """
    config_file, results_file = folder / "config.yaml", folder / "results.jsonl"
    check_study_folder(folder, (config_file.name, "environment.json", results_file.name))
    config = load_config(CurveConfig, config_file)
    rows = read_rows(results_file, Row)
    if not rows:
        raise InputError(f"{results_file}: holds no rows yet; let `curve` compute some first")
    return config, rows


def _summary(
    config: CurveConfig, environment: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, Any]:
    scores = scores_by_arm(rows)
    nll = mean_curves(scores_by_arm(rows, "nll"))
    means = {
        arm: {budget: share_interval(scores[arm][budget]) for budget in sorted(scores[arm])}
        for arm in scores
    }
    comparisons = comparisons_of(scores)
    against_controls = [c for c in comparisons if c.control != "frozen"]
    curves = mean_curves(scores)
    seeds = [encoder["seed"] for encoder in environment["encoders"]]
    planned = len(planned_rows(config, seeds))
    saw_test = pretraining_saw_test(environment)
    inference = {arm: arm_inference(arm, config, saw_test=saw_test) for arm in means}
    seen = [arm for arm, word in inference.items() if word == "transductive"]
    labelled = study_source_labels(environment) is not None
    deepest = next(reversed(depths_of(config)), None)
    text = verdict(comparisons, means, seen, labelled=labelled and saw_test, deepest=deepest)
    text = " ".join([text, *source_labels_caveat(environment), *tuning_caveat(config)])
    if len(rows) < planned:
        text = f"Unfinished, {len(rows)} of {planned} rows: {text}"
    leaks, audit = Leaks.model_validate(environment["leaks"]), environment.get("audit")
    pretraining = [
        pretraining_cost(Path(path), read_artifact(path))
        for path in config.encoders()
        if Path(path).is_file()
    ]
    return {
        "verdict": text,
        "name": config.name,
        "rows": {"done": len(rows), "planned": planned},
        "classes": environment["classes"],
        "budgets": list(config.budgets),
        "arms": {
            arm: {str(budget): asdict(found) for budget, found in means[arm].items()}
            for arm in means
        },
        **_further_scores(rows, list(means), [(c.arm, c.control) for c in against_controls]),
        "inference": inference,
        "differences": [
            {"arm": c.arm, "control": c.control, "budget": budget, **asdict(found)}
            for c in comparisons
            for budget, found in c.differences.items()
        ],
        "labels_saved": [
            {"arm": c.arm, "control": c.control, **asdict(found), "utility": found.utility}
            for c in against_controls
            for found in c.saved.values()
        ],
        "crossings": [
            {"arm": c.arm, "control": c.control, "labels": at}
            for c in comparisons
            for at in c.crossings
        ],
        "curves": {
            arm: {measure: asdict(found) for measure, found in curve_measures(curve).items()}
            for arm, curve in curves.items()
        },
        **_laws(curves, config.targets),
        "variances": {arm: _variances(by_budget) for arm, by_budget in scores.items()},
        "curve_differences": [asdict(found) for c in comparisons for found in c.measures],
        "labels_to_target": [asdict(found) for found in labels_to_targets(curves, config.targets)],
        "training": {
            "curves": [asdict(found) for found in training_curves(rows)],
            "differences": [
                asdict(found)
                for found in training_differences(rows, [(c.arm, c.control) for c in comparisons])
            ],
            "steps_to_accuracy": [
                asdict(found) for found in steps_to_accuracy(rows, config, config.targets)
            ],
        },
        "depths": [asdict(found) for found in depth_choices(config, rows)],
        "code_lengths": {
            arm: asdict(found)
            for arm, found in code_lengths(nll, len(environment["classes"])).items()
        },
        "costs": {
            "pretraining": pretraining,
            "arms": arm_costs(rows, environment["flops_per_image"]),
            "flops_per_image": environment["flops_per_image"],
        },
        "break_even": _break_even(against_controls, config.prices, pretraining),
        "leaks": {"exact": leaks.exact, **leaks.model_dump(mode="json")},
        "audit": audit,
        "copies": [asdict(found) for found in copy_scores(rows)],
        "warnings": copy_warnings(
            leaks, audit, removed=config.data.remove_copies, labelled=labelled
        ),
        "notes": study_notes(config, environment, leaks),
        "arm_notes": {arm: arm_notes(arm, config, environment) for arm in means},
        "provenance": dict(environment),
    }


def _further_scores(
    rows: Sequence[Row], arms: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Measures besides accuracy, and the classes, of each arm and of pairs of arm and control."""
    own = {arm: [row for row in rows if row.arm == arm] for arm in arms}
    return {
        "measures": {
            arm: {
                measure: {
                    str(budget): asdict(found)
                    for budget, found in measure_intervals(own[arm], measure).items()
                }
                for measure in MEASURES
            }
            for arm in arms
        },
        "class_accuracies": {
            arm: {
                str(budget): [None if found is None else asdict(found) for found in by_class]
                for budget, by_class in class_intervals(own[arm]).items()
            }
            for arm in arms
        },
        "class_differences": [
            {"arm": arm, "control": control, "budget": budget, "class": place, **asdict(found)}
            for arm, control in pairs
            for budget, by_class in class_differences(own[arm], own[control]).items()
            for place, found in enumerate(by_class)
            if found is not None
        ],
    }


def _break_even(
    comparisons: Sequence[Comparison],
    prices: Prices | None,
    pretraining: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """What labels saved are worth and when pretraining has paid; None without prices."""
    if prices is None:
        return None
    cost = pretraining_price(pretraining, prices)
    worth = {
        (c.arm, c.control): worth_of(list(c.saved.values()), prices, cost) for c in comparisons
    }
    return {
        "prices": prices.model_dump(),
        "pretraining": cost,
        "worth": [
            {"arm": arm, "control": control, **asdict(entry)}
            for (arm, control), entries in worth.items()
            for entry in entries
        ],
        "words": [
            {"arm": arm, "control": control, "words": break_even(entries, cost, prices)}
            for (arm, control), entries in worth.items()
        ],
    }


def _laws(curves: Mapping[Arm, MeanCurve], targets: Sequence[float]) -> dict[str, Any]:
    """The power law of each arm that has one, and what it says of targets beyond the curve."""
    found = {arm: extrapolate(arm, curve, targets) for arm, curve in curves.items()}
    return {
        "power_laws": {arm: asdict(law) for arm, (law, _) in found.items() if law is not None},
        "extrapolated": [asdict(answer) for _, answers in found.values() for answer in answers],
    }


def _variances(by_budget: ScoresByBudget) -> dict[str, Any]:
    """The variance of accuracies by budget, split where seeds are crossed with draws."""
    tables = {budget: crossed_table(by_budget[budget]) for budget in sorted(by_budget)}
    return {
        str(budget): asdict(variance_components(table))
        for budget, table in tables.items()
        if table is not None and len(table) > 1
    }


def scores_by_arm(
    rows: Sequence[Row], score: Literal["accuracy", "nll"] = "accuracy"
) -> dict[Arm, ScoresByBudget]:
    """Return scores by arm, budget and (draw, seed); arms in the order of tables."""
    found: dict[Arm, ScoresByBudget] = {}
    for arm in arms_in_order(row.arm for row in rows):
        for row in rows:
            if row.arm == arm:
                by_budget = found.setdefault(arm, {})
                by_budget.setdefault(row.budget, {})[row.draw, row.seed] = getattr(row, score)
    return found


def write_summary(folder: Path) -> dict[str, Any]:
    """Write summary.json and the CSV files of a study, finished or not, each in one piece.

    Returns:
        What the former holds. Accuracies are fractions.
    Raises:
        InputError: the folder holds no study, or one without rows.
    """
    config, rows = read_config_and_rows(folder)
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    summary = _summary(config, environment, rows)
    for name, table in CSV_FILES.items():
        write_file(folder / name, table(summary).encode())
    write_file(folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def summary_table(summary: Mapping[str, Any]) -> str:
    """Return mean accuracy ± half its interval, in percent, as lines of text: arms by budgets."""
    budgets = [str(budget) for budget in summary["budgets"]]
    lines = [["accuracy, % ± 95 %", *(f"{int(budget):,}" for budget in budgets)]]
    for arm, found in summary["arms"].items():
        lines.append(
            [
                f"{arm}, {summary['inference'][arm]}",
                *(_cell(found.get(budget)) for budget in budgets),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run"
    mean = f"{100 * found['mean']:.1f}"
    if found["high"] is None:
        return mean
    return f"{mean} ± {100 * (found['high'] - found['mean']):.1f}"
