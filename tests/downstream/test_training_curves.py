"""Accuracy along the steps of training, and depths chosen inside the labels, from rows."""

import pytest

from downstream.config import CurveConfig
from downstream.depth_choice import depth_choices
from downstream.results import Row
from downstream.training_curves import steps_to_accuracy, training_curves, training_differences

CONFIG = CurveConfig(
    name="study",
    encoder="e.safetensors",
    data={"train": "a.tar", "test": "b.tar"},
    budgets=[50],
    scratch={"recipe": {"batch_size": 10}},
    arms=[
        "scratch",
        "finetuned",
        {"name": "low", "stages": ["a"]},
        {"name": "top", "stages": ["a", "b"]},
    ],
)


def row(arm, draw, along=None, *, seconds=20.0, accuracy=0.5, **choices) -> Row:
    choices = {"recipe": "fixed", "images": 1000, **choices}
    return Row(arm, 50, 50, draw, 0, accuracy, 0.5, 1.0, seconds, choices, along=along)


ROWS = [
    row("scratch", 0, [(10, 0.2), (100, 0.6)]),
    row("scratch", 1, [(10, 0.3), (100, 0.5)]),
    row("finetuned", 0, [(10, 0.5), (30, 0.7), (100, 0.8)]),
    row("finetuned", 1, [(10, 0.5), (100, 0.7)]),
]


def test_start_slope_and_end_are_means_over_rows():
    finetuned, scratch = training_curves(ROWS)
    assert (finetuned.arm, scratch.arm) == ("finetuned", "scratch")
    means = {measure: found.mean for measure, found in scratch.measures.items()}
    assert means == pytest.approx({"start": 0.25, "slope": 0.3, "end": 0.55})


def test_differences_are_paired_by_draw():
    found = training_differences(ROWS, [("finetuned", "scratch"), ("finetuned", "frozen")])
    means = {entry.measure: entry.difference.mean for entry in found}
    assert means == pytest.approx({"start": 0.25, "slope": -0.05, "end": 0.2})
    assert found[0].difference.n == 2


def test_steps_are_interpolated_to_what_scratch_ends_with_in_the_same_draw():
    by_arm = {entry.arm: entry for entry in steps_to_accuracy(ROWS, CONFIG, [])}
    # 20 steps in the draw in which scratch ends with 0.6; at once in the other.
    assert by_arm["finetuned"].steps.mean == pytest.approx((20 * 10) ** 0.5)
    assert by_arm["scratch"].steps.mean == pytest.approx(100)
    # A row of 1,000 images took 20 seconds; a step of scratch has 10 images.
    assert by_arm["scratch"].seconds == pytest.approx(100 * 10 * 20 / 1000)


def test_a_target_that_not_every_row_reaches_has_no_steps():
    wanted = {e.arm: e for e in steps_to_accuracy(ROWS, CONFIG, [0.55]) if e.target}
    assert (wanted["scratch"].reached, wanted["scratch"].rows) == (1, 2)
    assert wanted["scratch"].steps is None
    assert wanted["finetuned"].reached == 2


def test_a_depth_is_chosen_by_held_out_labels_and_shown_on_test_images():
    rows = [
        row("low", 0, accuracy=0.9, cv_accuracy=0.5),
        row("top", 0, accuracy=0.6, cv_accuracy=0.7),
        row("low", 1, accuracy=0.8, cv_accuracy=0.6),
        row("top", 1, accuracy=0.7, cv_accuracy=0.6),  # as good: the deeper one
    ]
    (found,) = depth_choices(CONFIG, rows)
    assert found.chosen == {"low": 0, "top": 2}
    assert found.accuracy.mean == pytest.approx(0.65)
    assert found.test == pytest.approx({"low": 0.85, "top": 0.65})
    assert found.held_out == pytest.approx({"low": 0.55, "top": 0.65})
    assert depth_choices(CONFIG, rows[:3]) == []
