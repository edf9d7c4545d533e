"""The report on test images that have a copy among the images learned from: counts and scores."""

from collections.abc import Mapping
from typing import Any

from downstream.copy_notes import pairs_in_words
from downstream.report_drawing import count
from downstream.report_study import StudyFiles
from downstream.report_tables import NO_INTERVAL, Cell, Line, Table, points


def copy_counts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many test images have copies, and among which images; exact ones in older studies."""
    leaks, audit = summary["leaks"], summary.get("audit")
    by_role = {} if audit is None else audit["counts"]
    return [
        ("Test images compared", count(leaks["checked"])),
        (
            "With a copy among the labelled training images",
            _found(by_role.get("train"), leaks["train"]),
        ),
        (
            "With a copy among the images of pretraining",
            "not checked"
            if leaks["pretraining"] is None
            else _found(by_role.get("pretrain"), leaks["pretraining"]),
        ),
        ("Repeats of an earlier test image", count(leaks["within_test"])),
    ]


def _found(counts: Mapping[str, Any] | None, exact: int) -> str:
    if counts is None or counts["test_images"] < exact:
        return f"{count(exact)}, exact ones"
    found = counts["test_images"]
    return f"{count(found)}: {pairs_in_words(counts)}" if found else "0"


def copy_table(study: StudyFiles) -> Table | None:
    """Accuracy with and without copies and the difference; None where no test image has one."""
    entries = {(e["arm"], e["budget"]): e for e in study.summary.get("copies", [])}
    if not entries:
        return None
    lines = [
        Line(
            style.label,
            [_cell(entries.get((arm, budget))) for budget in study.budgets],
            code=arm,
        )
        for arm, style in study.styles().items()
    ]
    return Table(
        "copies-table",
        "Accuracy with and without copies",
        "How many percentage points the test images that have copies add to the mean accuracy, "
        "with the 95 % interval; below the accuracy on all test images and on those without a "
        "copy, in percent. Images with copies may also be easier or harder than others, so that "
        "controls differ too.",
        "Arm",
        [f"{count(budget)} labels" for budget in study.budgets],
        lines,
    )


def _cell(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("not run")
    # Few images have copies: differences are often below a tenth of a point.
    gain, low, high = (entry["difference"][key] for key in ("mean", "low", "high"))
    ends = NO_INTERVAL if low is None else f"{points(low, 2)} to {points(high, 2)}"
    both = (100 * entry[name]["mean"] for name in ("with_copies", "without_copies"))
    return Cell(points(gain, 2), "{}; {:.2f} with, {:.2f} without".format(ends, *both))
