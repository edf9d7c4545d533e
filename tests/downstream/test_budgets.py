"""How many labels a study asks for, and which: by class, as shares, balanced or as they come."""

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
