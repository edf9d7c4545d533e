"""A study's folder as the report reads it, and what its summary says as curves and comparisons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from downstream.arms import Arm, random_twin
from downstream.config import CurveConfig
from downstream.labels_saved import LabelsSaved
from downstream.report_comparisons import Comparison, Saving
from downstream.report_curve import Curve
from downstream.report_style import ArmStyle, arm_styles
from downstream.resampled_curves import Bounds
from downstream.results import Row, read_rows
from downstream.statistics import Difference, Interval
from downstream.study_folder import check_study_folder
from training.config import load_config


@dataclass(frozen=True)
class StudyFiles:
    """What a study's folder holds."""

    folder: Path
    summary: Mapping[str, Any]
    rows: Sequence[Row]
    config: CurveConfig
    config_text: str

    @property
    def environment(self) -> Mapping[str, Any]:
        """The study's environment.json, which its summary repeats."""
        return self.summary["provenance"]

    @property
    def budgets(self) -> list[int]:
        """Budgets with at least one row, ascending."""
        return sorted({int(key) for found in self.summary["arms"].values() for key in found})

    def styles(self) -> dict[str, ArmStyle]:
        """Style of each arm that has rows, pretrained arms first."""
        styles = arm_styles(list(self.summary["arms"]))
        for arm, word in self.summary["inference"].items():
            if word == "transductive":  # what figures say of none is inductive
                styles[arm] = replace(styles[arm], label=f"{styles[arm].label}, {word}")
        return dict(sorted(styles.items(), key=lambda entry: not entry[1].pretrained))

    def depths(self) -> list[Arm]:
        """Arms that are depths of the encoder, the lowest first."""
        choices = self.summary.get("depths", [])
        return list(choices[0]["test"]) if choices else []

    def figure_styles(self) -> dict[str, ArmStyle]:
        """Style of each arm that figures show: depths of an encoder have one of their own.

        Where there are no other arms the whole encoder is shown all the same.
        """
        depths, styles = self.depths(), self.styles()
        shown = set(styles) - {arm for depth in depths for arm in (depth, random_twin(depth))}
        if depths and not shown:
            shown = {depths[-1], random_twin(depths[-1])}
        return {arm: style for arm, style in styles.items() if arm in shown}


def read_study(folder: Path) -> StudyFiles:
    """Read a study's folder.

    Raises:
        InputError: a file is missing; one line.
    """
    check_study_folder(folder, ("summary.json", "config.yaml", "results.jsonl"))
    return StudyFiles(
        folder,
        json.loads((folder / "summary.json").read_text(encoding="utf-8")),
        read_rows(folder / "results.jsonl", Row),
        load_config(CurveConfig, folder / "config.yaml"),
        (folder / "config.yaml").read_text(encoding="utf-8"),
    )


def curves(study: StudyFiles) -> dict[str, Curve]:
    """Curve of each arm."""
    found = {}
    for arm, style in study.styles().items():
        intervals = {
            int(budget): _interval(values) for budget, values in study.summary["arms"][arm].items()
        }
        rows = {
            budget: [r.accuracy for r in study.rows if (r.arm, r.budget) == (arm, budget)]
            for budget in intervals
        }
        found[arm] = Curve(style, intervals, rows)
    return found


def comparisons(study: StudyFiles) -> list[Comparison]:
    """Paired differences of each pair of arm and control, in the summary's order."""
    styles, pairs = study.styles(), _by_pair(study.summary["differences"])
    return [
        Comparison(styles[arm], styles[control], {e["budget"]: _difference(e) for e in entries})
        for (arm, control), entries in pairs.items()
    ]


def savings(study: StudyFiles) -> list[Saving]:
    """Labels saved of each pair of arm and control, in the summary's order."""
    styles, pairs = study.styles(), _by_pair(study.summary["labels_saved"])
    return [
        Saving(
            styles[arm],
            styles[control],
            [
                LabelsSaved(
                    e["budget"],
                    e["labels_needed"],
                    e["saved"],
                    e["flag"],
                    bounds_of(e.get("interval")),
                )
                for e in entries
            ],
        )
        for (arm, control), entries in pairs.items()
    ]


def bounds_of(values: Mapping[str, Any] | None) -> Bounds | None:
    """An interval of labels; None where the summary holds none."""
    return None if values is None else Bounds(values["low"], values["high"])


def _by_pair(
    entries: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        pairs.setdefault((entry["arm"], entry["control"]), []).append(entry)
    return pairs


def _interval(values: Mapping[str, Any]) -> Interval:
    return Interval(values["mean"], values["low"], values["high"], values["n"], values["seeds"])


def _difference(values: Mapping[str, Any]) -> Difference:
    """A difference; summaries of older studies hold no p values."""
    return Difference(
        values["mean"],
        values["low"],
        values["high"],
        values["n"],
        values["seeds"],
        values.get("p"),
        values.get("p_holm"),
    )
