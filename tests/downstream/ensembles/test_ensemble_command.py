"""`python -m downstream ensemble`: rows, how it goes on, tables, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from downstream.__main__ import main
from downstream.ensembles.config import KINDS, EnsembleConfig
from downstream.ensembles.rows import EnsembleRow
from downstream.results import read_rows
from training.config import load_config


@pytest.fixture(scope="module")
def whole(config: Path) -> list[EnsembleRow]:
    assert main(["ensemble", str(config)]) == 0
    return read_rows(config.parent / "runs/whole/results.jsonl", EnsembleRow)


def of(rows: list[EnsembleRow], kind: str) -> EnsembleRow:
    """The row of a kind in draw 0."""
    return next(row for row in rows if row.kind == kind and row.draw == 0)


@pytest.mark.slow
def test_every_kind_has_rows_that_compare_it_with_its_members(whole: list[EnsembleRow]) -> None:
    assert sorted(row.key for row in whole) == sorted((k, 60, d) for k in KINDS for d in range(2))
    for row in whole:
        accuracies = [member["accuracy"] for member in row.members]
        assert accuracies[row.best_in_hindsight] == max(accuracies)
        assert row.accuracy > 0.3  # chance is 0.1: weights with no mean would be near it
        if len(row.members) > 1:
            held_out = [member["held_out_accuracy"] for member in row.members]
            assert held_out[row.best_by_validation] == max(held_out)


def test_a_plain_run_ends_alike_whatever_is_looked_at_along_it(whole: list[EnsembleRow]) -> None:
    def scores(member: dict) -> tuple:
        return member["accuracy"], member["nll"], member["ece"]

    plain = scores(of(whole, "seeds").members[0])
    assert scores(of(whole, "checkpoints").members[-1]) == plain
    assert scores(of(whole, "ema").members[-1]) == plain
    assert scores(of(whole, "averaged_finetuned").members[0]) == plain
    assert scores(of(whole, "seeds").members[1]) != plain
    # Heads on one encoder are the members of both kinds.
    both = [[scores(m) for m in of(whole, kind).members] for kind in ("averaged", "concatenated")]
    assert both[0] == both[1]


def test_costs_count_what_the_ensemble_needs(whole: list[EnsembleRow]) -> None:
    costs = {row.kind: (row.training_cost, row.prediction_cost) for row in whole}
    assert costs["seeds"] == costs["scratch_seeds"] == (2, 2)
    assert costs["checkpoints"] == (1, 2)
    assert costs["ema"] == costs["swa"] == (1, 1)
    assert costs["concatenated"] == costs["averaged"] == costs["averaged_finetuned"] == (2, 2)
    # Chosen among three trials, then two learnt again; mixed after being held out, then again.
    assert 4 < costs["top_configurations"][0] <= 5
    assert costs["greedy_soup"] == (4, 1)
    assert costs["cosine_restarts"][0] == pytest.approx((6 + 2 * 24) / (6 + 24))
    training, prediction = costs["frozen_seeds"]
    assert training == 2
    assert 1 < prediction < 1.2


def test_gains_are_paired_by_draw(config: Path, whole: list[EnsembleRow]) -> None:
    folder = config.parent / "runs/whole"
    summaries = {
        found["kind"]: found for found in json.loads((folder / "summary.json").read_text())
    }
    for kind, found in summaries.items():
        rows = [row for row in whole if row.kind == kind]
        gains = [row.accuracy - row.members[row.best_by_validation]["accuracy"] for row in rows]
        bounds = [row.accuracy - max(m["accuracy"] for m in row.members) for row in rows]
        one = [r.members[0]["accuracy"] for r in whole if r.kind == "seeds"]
        assert found["gain"]["mean"] == pytest.approx(np.mean(gains))
        assert found["bound"]["mean"] == pytest.approx(np.mean(bounds))
        over_one = np.mean([row.accuracy for row in rows]) - np.mean(one)
        assert found["over_one"]["mean"] == pytest.approx(over_one)
        # Two draws: t with one degree of freedom, 12.706 standard errors.
        half = 12.706 * np.std(gains, ddof=1) / np.sqrt(2)
        assert found["gain"]["high"] - found["gain"]["mean"] == pytest.approx(half, rel=1e-3)
    table = (folder / "ensembles.md").read_text()
    assert "60 labels:" in table
    assert all(f"| {kind} |" in table for kind in KINDS)


def test_a_stopped_comparison_goes_on(
    config: Path, whole: list[EnsembleRow], capsys: pytest.CaptureFixture
) -> None:
    path = config.parent / "runs/whole/results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:50])  # as a kill leaves it
    assert main(["ensemble", str(config)]) == 0
    assert "24 rows (kinds: 12, budgets: 1, draws: 2, encoders: 2), 2 to compute" in (
        capsys.readouterr().out
    )

    def by_key(rows: list[EnsembleRow]) -> dict:
        return {row.key: {**vars(row), "seconds": None} for row in rows}

    assert by_key(read_rows(path, EnsembleRow)) == by_key(whole)
    assert main(["ensemble", str(config), "members=3"]) == 2
    assert "members is 2 in this run and 3 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["encoders={path}", "kinds=[averaged]"], "kinds: found averaged with one encoder"),
        (["encoders={{a: {path}, b: {path}}}"], "encoders: a and b are the same"),
        (["kinds=[top_configurations]", "finetune.trials=[{{}}]"], "with one trial"),
        (["finetune.trials=[{{}}, {{grid: 2}}]"], "whose weights have no mean"),
        (["kinds=[boosting]"], "boosting"),
        (["features.stages=[stage9]"], "'stage9'"),
        (["budgets=[5]"], "5 labels cannot hold 10 classes"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    config: Path,
    encoders: list[Path],
    overrides: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture,
) -> None:
    changes = [text.format(path=encoders[0]) for text in overrides]
    assert main(["ensemble", str(config), "name=refused", *changes]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
    assert not (config.parent / "runs/refused").exists()


def test_kinds_left_open_are_those_that_there_can_be(config: Path, encoders: list[Path]) -> None:
    one = load_config(EnsembleConfig, config, [f"encoders={encoders[0]}"])
    assert set(KINDS) - set(one.chosen_kinds()) == {
        "concatenated",
        "averaged",
        "averaged_finetuned",
    }
    assert (
        "top_configurations"
        not in load_config(EnsembleConfig, config, ["finetune.trials=[{}]"]).chosen_kinds()
    )
