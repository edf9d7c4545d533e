"""`python -m downstream depth`: heads on the lowest one, two, ... stages."""

import json
from pathlib import Path

import pytest
import yaml

from downstream.__main__ import main
from downstream.results import Row, read_rows


@pytest.fixture
def depth(digits: Path, encoders: list[Path], tmp_path: Path) -> Path:
    values = {
        "name": "depth",
        "runs_dir": str(tmp_path / "runs"),
        "encoders": {"two-seeds": [str(path) for path in encoders], "one": str(encoders[1])},
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budget": 60,
        "draws": 2,
        "features": {"grid": 2},
        "head": {"kind": "softmax", "steps": 40},
    }
    path = tmp_path / "depth.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.slow
def test_each_depth_is_the_frozen_arm_on_the_stages_up_to_it(
    depth: Path, study, encoders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["depth", str(depth)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "runs/depth/depth.json").read_text())
    places = [(row["encoder"], row["stages"], row["upto"]) for row in found]
    assert places == [
        ("two-seeds", 1, "stage1"), ("two-seeds", 2, "stage2"),
        ("one", 1, "stage1"), ("one", 2, "stage2"),
    ]  # fmt: skip
    for row, stages in zip(found[2:], ("[stage1]", "[stage1, stage2]"), strict=True):
        same = [
            str(study()), f"name={row['upto']}", f"encoder={encoders[1]}", "budgets=[60]",
            "arms=[frozen, random_frozen]", f"features.stages={stages}",
        ]  # fmt: skip
        assert main(["curve", *same]) == 0
        rows = read_rows(tmp_path / "runs" / row["upto"] / "results.jsonl", Row)
        for arm, key in (("frozen", "pretrained"), ("random_frozen", "random")):
            scores = [r.accuracy for r in rows if r.arm == arm]
            assert row[key]["mean"] == pytest.approx(sum(scores) / 2)
    assert f"| one | 2, up to stage2 | {100 * found[3]['pretrained']['mean']:.1f} ± " in printed
    picture = (tmp_path / "runs/depth/depth.svg").read_text()
    assert all(label in picture for label in ("two-seeds", "one, random", "60 labels"))


def test_a_depth_study_goes_on_and_refuses_stages(
    depth: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["depth", str(depth), "encoders={one: nowhere.safetensors}"]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert main(["depth", str(depth), "features.stages=[stage1]"]) == 2
    assert "features" in capsys.readouterr().err
    assert main(["depth", str(depth)]) == 0
    rows = tmp_path / "runs/depth/one-stage2/results.jsonl"
    before = rows.read_text()  # with the seconds that it took
    assert main(["depth", str(depth)]) == 0
    assert "0 to compute" in capsys.readouterr().out
    assert rows.read_text() == before
