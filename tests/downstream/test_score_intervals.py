"""Scores besides accuracy in the rows, the summary, the tables and the report of a study."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import recall_score

from data.store import open_store
from downstream.__main__ import main
from downstream.metrics import class_accuracies
from downstream.report import write_report
from downstream.results import Row, read_rows
from downstream.statistics import mean_interval, paired_difference
from tests.html_pages import Page


@pytest.fixture(scope="module")
def finished(digits, encoders, tmp_path_factory):
    """The folder of a small study with a head and a trained arm, and their controls."""
    runs = tmp_path_factory.mktemp("runs")
    config = {
        "name": "study",
        "runs_dir": str(runs),
        "encoder": str(encoders[0]),
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budgets": [20, 60],
        "draws": 3,
        "features": {"grid": 2},
        "head": {"kind": "softmax", "steps": 40},
        "scratch": {"recipe": {"steps": 10}},
        "arms": ["frozen", "random_frozen", "scratch"],
        "workers": 1,
    }
    path = runs / "study.yaml"
    path.write_text(json.dumps(config))
    assert main(["curve", str(path)]) == 0
    return runs / "study"


def test_the_accuracy_of_a_class_is_its_recall():
    labels = np.array([0, 0, 0, 2, 2])
    logits = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 3]]
    expected = recall_score(labels, logits.argmax(1), labels=[0, 2], average=None)
    assert class_accuracies(logits, labels) == [expected[0], None, expected[1], None]


@pytest.mark.slow
def test_every_row_has_them_and_classes_average_to_the_accuracy(finished, digits):
    rows = read_rows(finished / "results.jsonl", Row)
    test = json.loads((finished / "environment.json").read_text())["data"]["test"]["images"]
    assert {row.arm for row in rows} == {"frozen", "random_frozen", "scratch"}
    for row in rows:
        assert 0 <= row.ece <= 1 and len(row.class_accuracies) == 10
        support = np.bincount(load_test_labels(digits))
        assert support.sum() == test
        assert np.dot(row.class_accuracies, support) / test == pytest.approx(row.accuracy)


def load_test_labels(digits):
    return open_store(f"{digits}/test-*.tar").labels.numpy()


def test_the_summary_has_their_intervals_and_the_tables_say_the_same(finished):
    rows = read_rows(finished / "results.jsonl", Row)
    summary = json.loads((finished / "summary.json").read_text())

    def table(arm, score):
        return {(r.draw, r.seed): score(r) for r in rows if (r.arm, r.budget) == (arm, 60)}

    for measure in ("macro_f1", "nll", "ece"):
        found = summary["measures"]["frozen"][measure]["60"]
        wanted = mean_interval(table("frozen", lambda row, name=measure: getattr(row, name)))
        assert (found["mean"], found["low"], found["high"]) == pytest.approx(
            (wanted.mean, wanted.low, wanted.high)
        )
    of_class = {
        arm: table(arm, lambda row: row.class_accuracies[7]) for arm in ("frozen", "random_frozen")
    }
    wanted = paired_difference(of_class["frozen"], of_class["random_frozen"])
    (found,) = (
        entry
        for entry in summary["class_differences"]
        if (entry["control"], entry["budget"], entry["class"]) == ("random_frozen", 60, 7)
    )
    assert (found["mean"], found["low"]) == pytest.approx((wanted.mean, wanted.low))
    lines = read_csv(finished / "classes.csv")
    assert len(lines) == 3 * 2 * 10
    (line,) = (
        one for one in lines if (one["arm"], one["budget"], one["class"]) == ("frozen", "60", "7")
    )
    interval = mean_interval(of_class["frozen"])
    assert (float(line["mean"]), float(line["high"])) == pytest.approx(
        (interval.mean, interval.high)
    )
    compared = read_csv(finished / "comparisons.csv")
    assert len(compared) == len(summary["differences"])
    saved = summary["labels_saved"][0]
    (line,) = (
        one
        for one in compared
        if (one["arm"], one["control"], one["budget"])
        == (saved["arm"], saved["control"], str(saved["budget"]))
    )
    assert float(line["saved"]) == saved["saved"] and line["flag"] == (saved["flag"] or "")


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_has_them_in_tables_and_panels(finished):
    summary = json.loads((finished / "summary.json").read_text())
    page = Page((finished / "report.html").read_text())
    found = summary["measures"]["scratch"]["nll"]["20"]
    assert f"{found['mean']:.3f}{found['low']:.3f} to {found['high']:.3f}" in page.texts["td"]
    for heading in ("Macro F1", "Negative log-likelihood", "Calibration error"):
        assert heading in page.texts["h3"]
    assert "Accuracy by class" in page.texts["h2"]
    assert "Accuracy by class against number of labels" in page.texts["title"]
    entry = summary["class_differences"][0]
    gain = f"{100 * entry['mean']:+.1f}".replace("-", "−")
    assert any(cell.startswith(gain) for cell in page.texts["td"])
    assert (finished / "figures/classes.svg").is_file()


def test_of_many_classes_the_two_ends_are_shown(finished):
    """A study with its classes' numbers repeated: 40 classes of which two gain and lose most."""
    path = finished / "summary.json"
    text = path.read_text()
    try:
        summary = json.loads(text)
        summary["classes"] = [f"kind {number}" for number in range(40)]
        entries = summary["class_differences"]
        summary["class_differences"] = [
            {**entry, "class": entry["class"] + 10 * copy, "mean": gain(entry["class"] + 10 * copy)}
            for copy in range(4)
            for entry in entries
        ]
        path.write_text(json.dumps(summary))
        page = Page(write_report(finished).read_text())
    finally:
        path.write_text(text)
    assert "Accuracy by class against number of labels" not in page.texts["title"]
    shown = [name for name in page.texts["th"] if name.startswith("kind ")]
    assert len(shown) == 20 and (shown[0], shown[-1]) == ("kind 33", "kind 4")


def gain(number: int) -> float:
    return {33: 0.5, 4: -0.5}.get(number, number / 1000)


def test_rows_of_an_older_study_are_read(finished, tmp_path, capsys):
    folder = tmp_path / "older"
    folder.mkdir()
    for name in ("config.yaml", "environment.json"):
        (folder / name).write_text((finished / name).read_text())
    lines = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    for line in lines:
        del line["ece"], line["class_accuracies"]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(folder)]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["measures"]["frozen"]["ece"] == {} and summary["class_differences"] == []
    page = Page((folder / "report.html").read_text())
    assert "Calibration error" not in page.texts["h3"] and "Macro F1" in page.texts["h3"]
    assert "Accuracy by class" not in page.texts["h2"]
    assert all(line["ece"] == "" != line["macro_f1"] for line in read_csv(folder / "curves.csv"))
