"""Several studies on one page: what its template is filled with, and what a terminal is told."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from downstream.arms import Arm, is_pretrained
from downstream.comparison_depth import depth_map_drawing
from downstream.depth_choice import stage_of
from downstream.markdown_table import markdown_table
from downstream.report_comparisons import differences_drawing
from downstream.report_curve import accuracy_figure, point_tips
from downstream.report_drawing import Drawing, count
from downstream.report_style import DARK, LIGHT
from downstream.report_tables import accuracy_lines, difference_lines
from downstream.statistics import in_percent
from downstream.study_comparison import Series, StudyComparison, clear_leaders
from downstream.wording import budgets_in_words
from pages.html import render

_ARM_WORDS: dict[Arm, str] = {"finetuned": "Fine-tuned", "frozen": "Under a linear head, frozen"}
_CONTENTS = (
    ("curves", "Curves"),
    ("accuracy", "Accuracy"),
    ("depths", "Depth"),
    ("differences", "Differences"),
    ("studies", "Each study"),
)


def comparison_headlines(found: StudyComparison) -> list[str]:
    """Return for each arm which encoder is measurably best, and with how many labels."""
    if len(found.studies) == 1:
        (study,) = found.studies.values()
        return [study.summary["verdict"]]
    sentences = [
        _leaders(_in_words(arm, found.depths), of_arm)
        for arm in found.pretrained
        if len(of_arm := found.of_arm(arm)) > 1
    ]
    return sentences or ["No pretrained arm stands in two of these studies."]


def _leaders(words: str, series: Sequence[Series]) -> str:
    by_study: dict[str, list[int]] = {}
    for budget, leader in clear_leaders(series).items():
        by_study.setdefault("" if leader is None else leader.study, []).append(budget)
    parts = [
        f"{study} is measurably the best of the {len(series)} encoders with "
        f"{budgets_in_words(budgets)} labels"
        for study, budgets in by_study.items()
        if study
    ]
    if not parts:
        return f"{words}, no encoder is measurably the best with any number of labels."
    if "" in by_study:
        parts.append(f"with {budgets_in_words(by_study[''])} labels none is")
    return f"{words}, {'; '.join(parts)}."


def _in_words(arm: Arm, depths: Collection[Arm]) -> str:
    if arm in depths:
        return f"Under a linear head on the stages up to {stage_of(arm)}, frozen"
    return _ARM_WORDS.get(arm, f"By “{arm}”")


def accuracy_table(found: StudyComparison) -> str:
    """Return mean accuracy ± half its interval, in percent, as a Markdown table."""
    rows = {}
    for one in found.series:
        intervals = one.intervals
        rows[one.style.label] = [
            in_percent(intervals[budget]) if budget in intervals else "not run"
            for budget in found.budgets
        ]
    return markdown_table(found.budgets, rows)


def comparison_drawings(found: StudyComparison) -> dict[str, Drawing]:
    """Return the page's figures by name: "curves-ARM", "depths", "differences", if there are."""
    drawings = [
        _curves(arm, _in_words(arm, found.depths), shown) for arm, shown in _shown(found).items()
    ]
    differences = differences_drawing(
        found.comparisons(),
        "One panel for each comparison; the figures are in the table below.",
    )
    drawings += [one for one in (depth_map_drawing(found.studies), differences) if one is not None]
    return {drawing.name: drawing for drawing in drawings}


def render_comparison(
    found: StudyComparison, drawings: Mapping[str, Drawing], *, name: str, folder: Path
) -> str:
    """Return the page as HTML.

    Args:
        drawings: as `comparison_drawings` gives them.
        folder: where the page will lie, from which it refers to the reports of the studies.
    """
    templates = Path(__file__).with_name("templates")
    return render(templates, "comparison.html.j2", _context(found, drawings, name, folder))


def _shown(found: StudyComparison) -> dict[Arm, list[Series]]:
    """For each pretrained arm that a study has: that arm of all studies, then the controls."""
    controls = [one for one in found.series if not is_pretrained(one.arm)]
    return {arm: [*own, *controls] for arm in found.pretrained if (own := found.of_arm(arm))}


def _context(
    found: StudyComparison, drawings: Mapping[str, Drawing], name: str, folder: Path
) -> dict[str, Any]:
    figures = {name: drawing.themed() for name, drawing in drawings.items()}
    arms = {one.key: one.curve() for one in found.series}
    first = next(iter(found.studies.values()))
    headline, *lead = comparison_headlines(found)
    return {
        "light": LIGHT,
        "dark": DARK,
        "contents": [part for part in _CONTENTS if part[0] != "depths" or "depths" in figures],
        "name": name,
        "headline": headline,
        "lead": " ".join(lead),
        "facts": [
            ("Images", first.environment["data"]["train"]["dataset"] or "unnamed"),
            ("Studies", count(len(found.studies))),
            ("Tested on", f"{count(first.environment['data']['test']['images'])} images"),
            ("Draws", count(first.config.draws)),
        ],
        "figures": [
            (
                arm,
                _in_words(arm, found.depths),
                figures[f"curves-{arm}"],
                [one.style.label for one in shown],
            )
            for arm, shown in _shown(found).items()
        ],
        "budget_columns": [f"{count(budget)} labels" for budget in found.budgets],
        "accuracy_lines": accuracy_lines(
            arms,
            {one.key: one.inference for one in found.series},
            {one.key: one.scores for one in found.series},
            found.budgets,
        ),
        "depths": figures.get("depths"),
        "differences": figures.get("differences"),
        "all_pairs": found.all_pairs,
        "reference": found.reference,
        "difference_lines": difference_lines(found.comparisons(), found.budgets),
        "studies": [
            (study, files.summary["verdict"], _report_of(files.folder, folder))
            for study, files in found.studies.items()
        ],
        "version": first.environment["underlayer"],
    }


def _curves(arm: Arm, words: str, shown: Sequence[Series]) -> Drawing:
    curves = [one.curve() for one in shown]
    return Drawing(
        f"curves-{arm}",
        lambda narrow: accuracy_figure(curves, narrow=narrow),
        f"{words}: accuracy against number of labels",
        "All figures are in the table of accuracies.",
        tips=point_tips(curves),
    )


def _report_of(study: Path, folder: Path) -> str | None:
    """The study's own report as the page refers to it; None where there is none."""
    report = study / "report.html"
    return Path(os.path.relpath(report, folder)).as_posix() if report.is_file() else None
