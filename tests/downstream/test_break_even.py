"""When pretraining has paid: labels saved at a price, against what it cost."""

import json

import pytest

from downstream.__main__ import main
from downstream.break_even import break_even, pretraining_price, worth_of
from downstream.labels_saved import LabelsSaved
from downstream.prices import Prices
from downstream.resampled_curves import Bounds
from tests.html_pages import Page

PRICES = Prices(label=0.1, hour=6.0)


def saved(budget, labels, low=None, high=None, *, flag=None, draws=2) -> LabelsSaved:
    interval = Bounds(low, high) if draws > 1 else None
    return LabelsSaved(budget, budget + labels, labels, flag, interval)


def told(entries, cost):
    worth = worth_of(entries, PRICES, cost)
    return [(one.pays, one.uses) for one in worth], break_even(worth, cost, PRICES)


def test_one_run_costs_the_mean_of_those_whose_time_is_known():
    costs = [{"seconds": 3600.0}, {"seconds": None}, {"seconds": 1800.0}]
    assert pretraining_price(costs, PRICES) == pytest.approx(4.5)
    assert pretraining_price([{"seconds": None}], PRICES) is None


def test_the_smallest_budget_whose_whole_interval_pays_is_named():
    found, words = told([saved(50, 60, 20, 90), saved(100, 80, 55, 120), saved(500, 200, 90)], 5.0)
    assert found == [("unsure", 1), ("yes", 1), ("yes", 1)]
    assert "is 100 labels, where it saves 8.00 EUR (95 % interval 5.50 to 12.00)" in words


def test_what_one_use_does_not_pay_for_several_do():
    found, words = told([saved(50, 6, -2, 9), saved(100, 20, 10, 30)], 5.0)
    assert found == [("no", 9), ("no", 3)]
    assert "after 3 uses with 100 labels" in words and "not certain" not in words
    _, words = told([saved(50, 20, -5, 90)], 5.0)
    assert "after 3 uses" in words and "whether it saves any at all is not certain" in words


def test_never_and_unknown_are_told_apart():
    found, words = told([saved(50, -10, -30, 4), saved(100, 0, -9, 9, flag="below_start")], 5.0)
    assert found == [("no", None), ("no", None)]
    assert words == "Pretraining never pays: it saves no labels at any budget."
    found, words = told([saved(500, 0, 0, None, flag="never_reached")], 5.0)
    assert found == [("unsure", None)] and "is unknown: the control had too few labels" in words
    found, words = told([saved(50, 100, 50, 200)], None)
    assert found == [("unknown", None)] and "no log says how long it took" in words


def test_with_one_draw_a_bound_decides_only_where_it_can():
    entries = [
        saved(50, 60, draws=1),
        saved(60, 10, draws=1),
        saved(70, 60, flag="never_reached", draws=1),
        saved(80, 10, flag="never_reached", draws=1),
    ]
    found, words = told(entries, 5.0)
    assert [pays for pays, _ in found] == ["yes", "no", "yes", "unsure"]
    assert "(no interval)" in words


@pytest.mark.slow
def test_prices_may_be_given_when_the_rows_are_there(study, tmp_path, capsys):
    path = study(arms=["frozen", "random_frozen"], workers=1)
    assert main(["curve", str(path)]) == 0
    folder = tmp_path / "runs/study"
    assert json.loads((folder / "summary.json").read_text())["break_even"] is None
    rows = (folder / "results.jsonl").read_bytes()
    assert main(["curve", str(path), "prices={label: 0.5, hour: 2, currency: CHF}"]) == 0
    assert "0 to compute" in capsys.readouterr().out
    assert (folder / "results.jsonl").read_bytes() == rows
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["break_even"]
    labels = {entry["budget"]: entry["saved"] for entry in summary["labels_saved"]}
    assert {entry["budget"]: entry["worth"] / 0.5 for entry in found["worth"]} == labels
    # The encoders of these tests were not pretrained in a run of their own.
    assert found["pretraining"] is None and {e["pays"] for e in found["worth"]} == {"unknown"}
    page = Page((folder / "report.html").read_text())
    assert "Does pretraining pay?" in page.texts["h2"]
    assert "CHF" in page.texts["html"][0] and "unknown: no log" in page.texts["html"][0]


@pytest.mark.parametrize("prices", ["{label: 0, hour: 1}", "{label: 1}", "{label: 1, hour: -1}"])
def test_prices_that_mean_nothing_are_refused(study, capsys, prices):
    assert main(["curve", str(study()), f"prices={prices}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "prices" in line
