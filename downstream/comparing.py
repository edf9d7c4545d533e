"""Arms against their controls: what is compared with what, and over which draws."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from downstream.arms import SHORT_ARMS, Arm, is_pretrained, random_twin
from downstream.labels_saved import crossings, labels_saved, saved_intervals
from downstream.learning_curve import curve_differences
from downstream.multiplicity import corrected_differences
from downstream.resampled_curves import mean_curves
from downstream.statistics import Scores, paired_difference
from downstream.verdict import Comparison

COMPARED: tuple[tuple[Arm, Arm], ...] = (
    ("finetuned", "scratch"),
    ("finetuned", "scratch_equal_compute"),
    ("frozen", "scratch"),
    ("frozen", "random_frozen"),
    ("frozen", "raw_logistic"),
    ("finetuned", "frozen"),
)
"""Pairs of arm and control, by short names, whose differences are reported."""


def comparisons_of(scores: Mapping[Arm, Mapping[int, Scores]]) -> list[Comparison]:
    """Return every comparison whose two arms were run, p values corrected for all of them."""
    return corrected([compare(arm, control, scores) for arm, control in compared_pairs(scores)])


def compared_pairs(arms: Collection[Arm]) -> list[tuple[Arm, Arm]]:
    """Return what is compared with what, of the arms that were run.

    An arm of the user's own with its random twin, or else with the first control there is: each
    comparison makes the others less certain.
    """
    pairs: list[tuple[Arm, Arm]] = [
        (arm, control) for arm, control in COMPARED if arm in arms and control in arms
    ]
    for arm in arms:
        if arm not in SHORT_ARMS and is_pretrained(arm):
            controls = (random_twin(arm), "scratch", "random_frozen", "raw_logistic")
            pairs += [(arm, control) for control in controls if control in arms][:1]
    return pairs


def compare(arm: Arm, control: Arm, scores: Mapping[Arm, Mapping[int, Scores]]) -> Comparison:
    """Compare two arms, at each budget over the draws that both were run on."""
    same_seeds = is_pretrained(arm) and is_pretrained(control)
    differences = {}
    for budget in sorted(scores[arm].keys() & scores[control].keys()):
        difference = paired_difference(
            scores[arm][budget], scores[control][budget], same_seeds=same_seeds
        )
        if difference is not None:
            differences[budget] = difference
    pair = mean_curves(
        {
            arm: _on_shared_draws(scores[arm], scores[control]),
            control: _on_shared_draws(scores[control], scores[arm]),
        }
    )
    curve, control_curve = (pair[name].by_budget() for name in (arm, control))
    intervals = saved_intervals(pair[arm], pair[control])
    saved = {
        found.budget: replace(found, interval=intervals.get(found.budget))
        for found in labels_saved(curve, control_curve)
    }
    return Comparison(
        arm,
        control,
        differences,
        saved,
        crossings(curve, control_curve),
        curve_differences(arm, control, pair),
    )


def _on_shared_draws(
    scores: Mapping[int, Scores], other: Mapping[int, Scores]
) -> dict[int, Scores]:
    """Scores of the draws that another arm has too; all of a budget where it shares none."""
    found = {}
    for budget, table in scores.items():
        draws = {draw for draw, _ in other.get(budget, {})}
        found[budget] = {key: v for key, v in table.items() if key[0] in draws} or table
    return found


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p values corrected for the number of all their differences."""
    differences = corrected_differences([comparison.differences for comparison in comparisons])
    return [
        replace(comparison, differences=own)
        for comparison, own in zip(comparisons, differences, strict=True)
    ]
