"""How many labels a study asks for, and which: by class, as shares, balanced or as they come."""

import pytest
import yaml

from downstream.__main__ import main
from downstream.results import Row, read_rows


def test_budgets_by_class_and_as_shares_and_draws_as_labels_come(study, tmp_path):
    asked = {"budgets_per_class": [2], "budget_fractions": [0.05], "sampling": "natural"}
    path = study(arms=["raw_logistic"], draws=1, workers=1, **asked)
    values = yaml.safe_load(path.read_text())
    del values["budgets"]
    path.write_text(yaml.safe_dump(values))
    assert main(["curve", str(path)]) == 0
    rows = read_rows(tmp_path / "runs/study/results.jsonl", Row)
    assert sorted(row.budget for row in rows) == [20, 60]  # of ten classes, and of 1,200 images
    for row in rows:
        assert row.class_counts is not None
        assert sum(row.class_counts) == row.budget and len(set(row.class_counts)) > 1
    assert main(["curve", str(study(arms=["raw_logistic"], draws=1, name="balanced"))]) == 0
    rows = read_rows(tmp_path / "runs/balanced/results.jsonl", Row)
    assert [row.class_counts for row in rows] == [[2] * 10, [6] * 10]


def test_noise_and_imbalance_reach_the_labels_that_are_learnt(study, tmp_path, capsys):
    scores = {}
    for name, changes in {
        "clean": {},
        "noisy": {"label_noise": 0.6},
        "tail": {"imbalance": 9},
    }.items():
        path = study(name=name, arms=["raw_logistic"], budgets=[200], workers=1, **changes)
        assert main(["curve", str(path)]) == 0
        (first, *_) = read_rows(tmp_path / "runs" / name / "results.jsonl", Row)
        scores[name] = (first.accuracy, first.class_counts)
    assert scores["noisy"][0] < scores["clean"][0] - 0.1
    counts = sorted(scores["tail"][1])
    assert counts[-1] == pytest.approx(9 * counts[0], rel=0.2)
    assert main(["curve", str(study(name="both", sampling="natural", imbalance=2))]) == 2
    assert "imbalance" in capsys.readouterr().err
