"""What is concluded from rows: verdicts in both directions, leaks, and rows on disk."""

from pathlib import Path

import pytest
import torch

from downstream.comparing import compare, corrected
from downstream.config import CurveConfig
from downstream.inputs import open_inputs
from downstream.leaks import check_leaks
from downstream.results import ResultsFile, Row, read_rows
from downstream.statistics import mean_interval, paired_difference
from downstream.verdict import Comparison, verdict
from training.config import load_config

SPREAD = (0.004, -0.002, 0.001, -0.004, 0.001)


def curves(**accuracies: dict[int, float]) -> tuple[list[Comparison], dict]:
    """Five draws around each mean; the draws' hardness is shared, the rest is small."""
    scores = {
        arm: {
            budget: {(d, 0): mean + 5 * SPREAD[d] + i * SPREAD[-d] for d in range(5)}
            for budget, mean in by_budget.items()
        }
        for i, (arm, by_budget) in enumerate(accuracies.items())
    }
    means = {
        arm: {b: mean_interval(table) for b, table in by_budget.items()}
        for arm, by_budget in scores.items()
    }
    pairs = [("finetuned", "scratch"), ("frozen", "scratch"), ("frozen", "random_frozen")]
    comparisons = [compare(a, c, scores) for a, c in pairs if a in scores and c in scores]
    return corrected(comparisons), means


def test_a_gain_is_told_with_its_interval_and_its_worth():
    text = verdict(
        *curves(
            finetuned={100: 0.72, 500: 0.80, 1000: 0.840},
            scratch={100: 0.70, 500: 0.78, 1000: 0.840},
        )
    )
    assert text.startswith(
        "With 100 labels, fine-tuning the pretrained encoder reaches 72.0 %, 2.0 points above "
        "training from scratch (95 % interval "
    )
    assert "which needs about 200 labels for that: about 100 labels saved (95 %: " in text
    assert "with 500 it is ahead by 2.0 points" in text
    assert "with 1,000 no difference is measurable" in text


def test_gains_that_survive_the_number_of_comparisons_are_told():
    sure, unsure = 0.72, 0.705
    for gains, said in (
        ({100: sure, 500: 0.82}, "(Holm), every gain remains."),
        ({100: unsure, 500: 0.82}, "(Holm), the gain remains with 500 labels."),
        ({100: unsure}, "(Holm), no gain is certain."),
    ):
        scratch = {100: 0.70, 500: 0.78}
        text = verdict(*curves(finetuned={**scratch, **gains}, scratch=scratch, frozen=scratch))
        assert f"Corrected for all 4 comparisons of the study {said}" in text


def test_a_loss_is_told_as_plainly():
    text = verdict(*curves(frozen={100: 0.66, 500: 0.78}, scratch={100: 0.70, 500: 0.78}))
    assert text.startswith("Pretraining does not help here: with 100 labels, a linear head on the ")
    assert "is 4.0 points below training from scratch (95 % interval 3." in text


def test_no_difference_is_told_as_none():
    text = verdict(*curves(frozen={100: 0.7001}, scratch={100: 0.70}))
    assert text.startswith("Pretraining makes no measurable difference here")
    assert "(95 % interval −" in text


def test_the_frozen_encoder_is_compared_with_both_controls():
    text = verdict(
        *curves(
            finetuned={100: 0.75, 500: 0.80},
            scratch={100: 0.70, 500: 0.78},
            frozen={100: 0.72, 500: 0.75},
            random_frozen={100: 0.70, 500: 0.75},
        )
    )
    assert "Against the same head on a random encoder, a linear head" in text
    assert "measurably better with 100 labels and level with 500" in text
    assert "measurably better with 100 labels and measurably worse with 500." in text


def test_curves_are_compared_over_the_draws_that_both_have():
    """An easy third draw of the control alone moves neither differences nor labels saved."""
    arm = {10: {(0, 0): 0.6, (1, 0): 0.5}, 100: {(0, 0): 0.8, (1, 0): 0.7}}
    control = {
        10: {(0, 0): 0.4, (1, 1): 0.3, (2, 2): 0.9},
        100: {(0, 0): 0.6, (1, 1): 0.5, (2, 2): 0.9},
    }
    found = compare("finetuned", "scratch", {"finetuned": arm, "scratch": control})
    assert {b: round(d.mean, 6) for b, d in found.differences.items()} == {10: 0.2, 100: 0.2}
    assert found.saved[10].labels_needed == pytest.approx(100)
    assert found.saved[100].flag == "never_reached"
    assert found.crossings == []


def test_one_draw_is_not_taken_for_certainty():
    one = {(0, 0): 0.7}
    difference = paired_difference(one, {(0, 0): 0.6})
    comparison = Comparison("frozen", "scratch", {50: difference}, {})
    text = verdict([comparison], {"frozen": {50: mean_interval(one)}})
    assert text.startswith("With a single draw nothing is certain")


def test_leaks_are_counted(study, digits):
    inputs = open_inputs(load_config(CurveConfig, study()))
    clean = check_leaks(inputs)
    assert (clean.checked, clean.train, clean.pretraining, clean.within_test) == (597, 0, 0, 0)
    images = inputs.test.images.clone()
    images[[3, 9]] = inputs.train.images[[10, 20]]
    images[50] = images[51]
    test = type(inputs.test)(images, inputs.test.labels, "changed", None)
    leaks = check_leaks(type(inputs)(**{**vars(inputs), "test": test}))
    assert (leaks.train, leaks.pretraining, leaks.within_test, leaks.exact) == (2, 2, 1, 2)


def test_pretraining_on_other_images_is_checked_only_if_they_are_given(study, digits):
    inputs = open_inputs(load_config(CurveConfig, study()))
    elsewhere = type(inputs.train)(inputs.train.images, inputs.train.labels, "other", None)
    assert check_leaks(type(inputs)(**{**vars(inputs), "train": elsewhere})).pretraining is None
    config = load_config(CurveConfig, study(), [f"data.pretraining={digits}/train-*.tar"])
    given = open_inputs(config)
    assert given.pretraining is not None and torch.equal(
        given.pretraining.images, inputs.train.images
    )


def test_rows_survive_a_cut_off_line(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    first, second, third = (
        Row("frozen", 20, 20, draw, 0, 0.5, 0.4, 1.0, 0.1, {"strength": 0.1}) for draw in range(3)
    )
    file = ResultsFile(path)
    file.append([first, second])
    file.close()
    with path.open("a") as file:
        file.write('{"arm": "frozen", "bud')
    assert read_rows(path, Row) == [first, second]
    file = ResultsFile(path)
    file.append([third])
    file.close()
    assert read_rows(path, Row) == [first, second, third]
    assert path.read_text().count("\n") == 3
    with pytest.raises(TypeError):
        Row(**{"arm": "frozen"})
