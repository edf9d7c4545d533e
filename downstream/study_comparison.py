"""Several finished studies side by side: their arms on the same labels, and what differs.

Accuracies are fractions in [0, 1].
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from downstream.arms import Arm, is_pretrained
from downstream.multiplicity import corrected_differences
from downstream.plan import arms_in_order
from downstream.report_comparisons import Comparison
from downstream.report_curve import Curve
from downstream.report_study import StudyFiles, read_study
from downstream.report_style import ArmStyle, series_styles
from downstream.report_tables import clear_winner
from downstream.statistics import Difference, Interval, paired_difference, share_interval
from downstream.summary import ScoresByBudget, scores_by_arm
from training.errors import InputError

_SHAPES_LABELS = ("sampling", "imbalance", "label_noise", "data.remove_copies")
"""Keys of a config on which it depends which labels a draw has, or what is scored."""

_ALL_PAIRS = 5
"""Up to as many studies each is compared with each: more pairs than ten nobody reads."""


@dataclass(frozen=True)
class Series:
    """An arm of a study, or a control that several studies have in common.

    Fields:
        key: what tells it from all others, such as "gan/frozen" or "scratch".
        scores: budget -> (draw, seed) -> accuracy.
    """

    key: str
    arm: Arm
    study: str
    style: ArmStyle
    inference: str
    scores: ScoresByBudget

    @cached_property
    def intervals(self) -> dict[int, Interval]:
        """Mean accuracy with its interval at each budget."""
        return {budget: share_interval(self.scores[budget]) for budget in sorted(self.scores)}

    def curve(self) -> Curve:
        """Return it as figures and tables take it."""
        rows = {budget: list(scores.values()) for budget, scores in self.scores.items()}
        return Curve(self.style, self.intervals, rows)


@dataclass(frozen=True)
class StudyComparison:
    """Studies of one training and test set, whose draws of labels are the same.

    Fields:
        studies: name -> study.
        series: pretrained arms of all studies first, then controls, each once.
    """

    studies: Mapping[str, StudyFiles]
    series: Sequence[Series]

    @property
    def budgets(self) -> list[int]:
        """Numbers of labels that any of them has, ascending."""
        return sorted({budget for one in self.series for budget in one.scores})

    @property
    def pretrained(self) -> list[Arm]:
        """Pretrained arms that any of them has, in the order of tables."""
        return arms_in_order(one.arm for one in self.series if is_pretrained(one.arm))

    @property
    def depths(self) -> set[Arm]:
        """Arms that are depths of an encoder, of any of them."""
        return {arm for study in self.studies.values() for arm in study.depths()}

    @property
    def all_pairs(self) -> bool:
        """Whether each study is compared with each, and not with the first alone."""
        return len(self.studies) <= _ALL_PAIRS

    @property
    def reference(self) -> str:
        """The first study, with which the others are compared where there are many."""
        return next(iter(self.studies))

    def of_arm(self, arm: Arm) -> list[Series]:
        """Return an arm of every study that has it, in the order of the studies."""
        return [one for one in self.series if one.arm == arm]

    @cached_property
    def differences(self) -> list[tuple[Series, Series, dict[int, Difference]]]:
        """For each pretrained arm how every study differs from those before it.

        Of more than five studies each is compared with the first alone. Differences are paired over
        draws; encoders are independent sources of spread. P values are corrected for all of them.
        """
        pairs = [
            (one, other)
            for arm in self.pretrained
            for place, one in enumerate(self.of_arm(arm))
            for other in self.of_arm(arm)[:place]
            if self.all_pairs or other.study == self.reference
        ]
        paired = corrected_differences([_paired(one, other) for one, other in pairs])
        return [(*pair, own) for pair, own in zip(pairs, paired, strict=True)]

    def comparisons(self) -> list[Comparison]:
        """Return the differences as figures and tables take them."""
        return [Comparison(one.style, other.style, d) for one, other, d in self.differences]

    def as_json(self) -> dict[str, Any]:
        """Return what comparison.json holds."""
        return {
            "studies": {
                name: {"folder": str(study.folder), "verdict": study.summary["verdict"]}
                for name, study in self.studies.items()
            },
            "series": {
                one.key: {
                    "study": one.study,
                    "arm": one.arm,
                    "inference": one.inference,
                    "accuracy": {
                        str(budget): asdict(found) for budget, found in one.intervals.items()
                    },
                }
                for one in self.series
            },
            "differences": [
                {"series": one.key, "other": other.key, "budget": budget, **asdict(found)}
                for one, other, paired in self.differences
                for budget, found in paired.items()
            ],
        }


def compare_studies(folders: Sequence[Path]) -> StudyComparison:
    """Read finished studies, named by their folders, and put them side by side.

    Raises:
        InputError: a folder holds no study with a summary; two have the same name; or they were not
            made with the same data, labels and seed; one line.
    """
    studies: dict[str, StudyFiles] = {}
    for folder in folders:
        study = read_study(folder)
        name = study.config.name
        if name in studies:
            raise InputError(f"{folder}: a study called {name} was given before; give each once")
        studies[name] = study
    _check_paired(list(studies.values()))
    return StudyComparison(studies, _series(studies))


def clear_leaders(series: Sequence[Series]) -> dict[int, Series | None]:
    """Return for each budget the series that is measurably ahead of every other that has it."""
    found: dict[int, Series | None] = {}
    for budget in sorted({budget for one in series for budget in one.scores}):
        there = {one.key: one for one in series if budget in one.scores}
        winner = clear_winner({key: one.scores for key, one in there.items()}, budget)
        found[budget] = None if winner is None else there[winner]
    return found


def _paired(one: Series, other: Series) -> dict[int, Difference]:
    shared = sorted(one.scores.keys() & other.scores.keys())
    found = {b: paired_difference(one.scores[b], other.scores[b]) for b in shared}
    return {budget: interval for budget, interval in found.items() if interval is not None}


def _check_paired(studies: Sequence[StudyFiles]) -> None:
    """Check that draws and test labels are the same, as they follow from seed, data and config."""
    first = studies[0]
    for study in studies[1:]:
        for what, here, there in (
            ("seed", study.environment["seed"], first.environment["seed"]),
            ("training images", *(_split(one, "train") for one in (study, first))),
            ("test images", *(_split(one, "test") for one in (study, first))),
            *((key, *(_setting(one, key) for one in (study, first))) for key in _SHAPES_LABELS),
        ):
            if here != there:
                raise InputError(
                    f"{study.folder}: its {what} ({here}) is not that of {first.folder} ({there}); "
                    "studies are compared draw by draw, so give some of the same data and seed"
                )


def _setting(study: StudyFiles, key: str) -> object:
    """Return what the config of a study has at KEY or KEY.KEY."""
    found: object = study.config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _split(study: StudyFiles, split: str) -> str:
    fingerprint: str = study.environment["data"][split]["fingerprint"]
    return fingerprint


def _series(studies: Mapping[str, StudyFiles]) -> list[Series]:
    pretrained: list[tuple[str, Arm, ScoresByBudget]] = []
    controls: list[tuple[str, Arm, ScoresByBudget]] = []
    for name, study in studies.items():
        shown = study.figure_styles()
        for arm, scores in scores_by_arm(study.rows).items():
            if arm not in shown:  # depths of one encoder are in its own report
                continue
            if is_pretrained(arm):
                pretrained.append((name, arm, scores))
            elif not any(arm == a and _same(scores, known) for _, a, known in controls):
                controls.append((name, arm, scores))
    kinds = Counter(arm for _, arm, _ in controls)
    keys = [f"{name}/{arm}" for name, arm, _ in pretrained]
    keys += [arm if kinds[arm] == 1 else f"{name}/{arm}" for name, arm, _ in controls]
    found = pretrained + controls
    styles = series_styles([(key, arm) for key, (_, arm, _) in zip(keys, found, strict=True)])
    return [
        Series(key, arm, name, style, studies[name].summary["inference"][arm], scores)
        for key, style, (name, arm, scores) in zip(keys, styles, found, strict=True)
    ]


def _same(scores: ScoresByBudget, other: ScoresByBudget) -> bool:
    """Whether two tables agree wherever both have a score, and share some."""
    shared = [
        (table[key], other[budget][key])
        for budget, table in scores.items()
        if budget in other
        for key in table
        if key in other[budget]
    ]
    return bool(shared) and all(ours == theirs for ours, theirs in shared)
