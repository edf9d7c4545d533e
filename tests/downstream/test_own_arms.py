"""Arms of the user's own: (encoder, mode, head) beside the short names, in one study."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from downstream.__main__ import main
from downstream.results import Row, read_rows

GRADUAL = {"name": "gradual", "mode": "gradual"}


@pytest.fixture
def own_study(study):
    """Return a function that writes a small study with some arms, and returns its path."""

    def write(*arms, **changes) -> Path:
        quick = {"steps": 6, "batch_size": 16, "grid": 2}
        settings = {"unfreeze": quick, "finetune": {"recipe": quick}, "budgets": [40], **changes}
        return study(arms=list(arms), **settings)

    return write


def rows_of(folder: Path) -> dict:
    rows = read_rows(folder / "results.jsonl", Row)
    return {row.key: replace(row, seconds=0) for row in rows}


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_own_arms_stand_beside_short_ones_and_are_compared(own_study, tmp_path, capsys):
    path = own_study(
        "frozen",
        "random_frozen",
        GRADUAL,
        {"mode": {"kind": "partial", "from_stage": "stage2"}},
        {"head": {"kind": "mlp", "hidden": 8, "steps": 10}, "name": "mlp"},
        {
            "encoder": "random",
            "head": {"kind": "mlp", "hidden": 8, "steps": 10},
            "name": "random_mlp",
        },
        {"mode": "scratch"},
    )
    assert main(["curve", str(path)]) == 0
    folder = tmp_path / "runs/study"
    rows, summary = rows_of(folder), summary_of(folder)
    own = ["gradual", "mlp", "partial_stage2", "random_mlp", "scratch_own"]
    assert list(summary["arms"]) == ["frozen", "random_frozen", *own]
    assert {key.seed for key in rows if key.arm == "gradual"} == {3}  # the encoder's
    assert {(key.draw, key.seed) for key in rows if key.arm == "scratch_own"} == {(0, 0), (1, 1)}
    gradual = [row for key, row in rows.items() if key.arm == "gradual"]
    assert all(row.choices["decisions"][0]["attempt"] == "frozen" for row in gradual)
    pairs = {(d["arm"], d["control"]) for d in summary["differences"]}
    assert ("mlp", "random_mlp") in pairs and ("gradual", "random_frozen") in pairs
    assert "gradual" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "partial stage2" in page and "trained, those below stay frozen" in page


@pytest.mark.slow
def test_an_arm_that_says_what_a_short_name_says_has_its_rows(own_study, tmp_path):
    same = {"name": "same", "mode": "frozen", "head": {"kind": "softmax", "steps": 40}}
    low = {"name": "low", "stages": ["stage1"]}
    assert main(["curve", str(own_study("frozen", same, low))]) == 0
    rows = rows_of(tmp_path / "runs/study")
    for key in [key for key in rows if key.arm == "frozen"]:
        alike = rows[key._replace(arm="same")]
        assert (alike.nll, alike.choices) == (rows[key].nll, rows[key].choices)
        assert rows[key._replace(arm="low")].nll != rows[key].nll


@pytest.mark.slow
def test_each_depth_is_an_arm_with_its_random_twin(own_study, tmp_path):
    path = own_study("frozen", "random_frozen", "frozen_each_depth")
    assert main(["curve", str(path)]) == 0
    folder = tmp_path / "runs/study"
    rows = rows_of(folder)
    for key in [key for key in rows if key.arm in ("frozen", "random_frozen")]:
        assert rows[key._replace(arm=f"{key.arm}_stage2")].nll == rows[key].nll
        assert rows[key._replace(arm=f"{key.arm}_stage1")].nll != rows[key].nll
    pairs = {(d["arm"], d["control"]) for d in summary_of(folder)["differences"]}
    assert ("frozen_stage1", "random_frozen_stage1") in pairs
    assert "frozen_stage1" in (folder / "config.yaml").read_text()
    (depths,) = summary_of(folder)["depths"]
    assert set(depths["test"]) == {"frozen_stage1", "frozen_stage2"}
    assert (folder / "figures/depth.svg").is_file()
    page = (folder / "report.html").read_text()
    assert "How deep to reuse" in page and "chosen inside the labels" in page


def test_equal_compute_trains_for_as_long_as_pretraining(own_study, digits, tmp_path):
    pretraining = {
        "name": "tiny",
        "runs_dir": str(tmp_path / "runs"),
        "data": {"shards": f"{digits}/train-*.tar"},
        "steps": 10,
        "batch_size": 32,
        "encoder": {"kind": "conv", "widths": [4, 8]},
        "objective": {"kind": "autoencoder"},
    }
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(pretraining))
    source = {"pretrain": str(config)}
    text = own_study("scratch", "scratch_equal_compute").read_text()
    values = yaml.safe_load(text)
    del values["encoder"]
    path = tmp_path / "several.yaml"
    path.write_text(yaml.safe_dump({**values, "encoders": {"tiny": source}}))
    assert main(["study", str(path)]) == 0
    rows = rows_of(tmp_path / "runs/study/curves/tiny")
    batch = 64  # of the usual recipe
    for key, row in rows.items():
        assert row.choices["steps"] == 15 + (10 * 32 // batch if "equal" in key.arm else 0)


@pytest.mark.slow
def test_a_study_has_arms_of_single_encoders(own_study, encoders, tmp_path):
    values = yaml.safe_load(own_study("frozen", {**GRADUAL, "encoder": "two"}).read_text())
    del values["encoder"]
    path = tmp_path / "several.yaml"
    labels = {"one": str(encoders[0]), "two": str(encoders[1])}
    path.write_text(yaml.safe_dump({**values, "encoders": labels}))
    assert main(["study", str(path)]) == 0
    curves = tmp_path / "runs/study/curves"
    assert {key.arm for key in rows_of(curves / "one")} == {"frozen"}
    assert {key.arm for key in rows_of(curves / "two")} == {"frozen", "gradual"}
    series = json.loads((tmp_path / "runs/study/comparison.json").read_text())["series"]
    assert list(series) == ["one/frozen", "two/frozen", "two/gradual"]


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([{"name": "frozen", "mode": "full"}], ["frozen", "short name"]),
        ([{"name": "scratch_x", "mode": "full"}], ["scratch_x", "controls"]),
        ([{"name": "mine", "encoder": "random"}], ["mine", "random_"]),
        ([{"encoder": "random", "mode": "full"}], ["full", "random"]),
        ([{"encoder": "gan", "mode": "full"}], ["gan", "study"]),
        ([GRADUAL, GRADUAL], ["gradual", "once"]),
        ([{"mode": "full", "head": "neighbours"}], ["arms.0", "full", "neighbours"]),
        ([{"stages": ["attic"]}], ["arms.0.stages", "attic", "stage1"]),
        ([{"mode": {"kind": "partial", "from_stage": "attic"}}], ["arms.0", "attic", "stage1"]),
        (["scratch_equal_compute"], ["scratch_equal_compute", "images_seen"]),
        (["frozen", "thawed"], ["arms", "thawed"]),
    ],
)
def test_arms_that_cannot_be_run_are_refused_in_one_line(own_study, arms, said, capsys):
    assert main(["curve", str(own_study(*arms))]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said) and error.count("\n") == 1


def test_the_control_is_tuned_at_least_as_much(own_study, capsys):
    tried = {"trials": [{}, {"lr": 0.01}]}
    path = own_study("scratch", "finetuned", finetune=tried, scratch={"trials": [{}]})
    assert main(["curve", str(path)]) == 2
    assert "scratch.trials: found 1, and 2 of finetune" in capsys.readouterr().err
