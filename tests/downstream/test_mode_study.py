"""`python -m downstream modes`: ways to reuse an encoder, side by side."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from downstream.__main__ import main
from downstream.mode_rows import ModeRow
from downstream.results import read_rows

ONE_EACH = {
    "frozen": {"kind": "frozen"},
    "top": {"kind": "partial", "from_stage": "stage2"},
    "auto": {"kind": "auto"},
}


@pytest.fixture
def config(digits: Path, encoders: list[Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small comparison's config, changed as asked."""

    def write(**changes: object) -> Path:
        values = {
            "name": "modes",
            "runs_dir": str(tmp_path / "runs"),
            "encoder": str(encoders[0]),
            "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
            "budgets": [20, 60],
            "draws": 2,
            "modes": ONE_EACH,
            "features": {"grid": 2},
            "head": {"kind": "ridge"},
            "unfreeze": {"steps": 4, "batch_size": 8},
            "finetune": {"steps": 4, "batch_size": 8, "head_steps": 2},
            "workers": 1,
            **changes,
        }
        path = tmp_path / "modes.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


def test_a_row_is_the_training_of_its_mode_and_a_stopped_study_goes_on(
    config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config()
    assert main(["modes", str(path)]) == 0
    folder = tmp_path / "runs/modes"
    results = folder / "results.jsonl"
    rows = read_rows(results, ModeRow)
    assert len(rows) == 12
    values = yaml.safe_load(path.read_text())
    for key in ("budgets", "draws", "modes", "workers"):
        values.pop(key)
    for row in rows:
        if (row.budget, row.draw) != (60, 1):
            continue
        one = {**values, "name": row.mode, "labels": 60, "draw": 1, "mode": ONE_EACH[row.mode]}
        alone = tmp_path / "train.yaml"
        alone.write_text(yaml.safe_dump(one))
        assert main(["train", str(alone)]) == 0
        said = json.loads((tmp_path / f"runs/{row.mode}/metrics.json").read_text())
        assert row.accuracy == said["accuracy"]
        decisions = (tmp_path / f"runs/{row.mode}/decisions.jsonl").read_text().splitlines()
        if row.mode == "auto":
            assert row.decisions == [json.loads(line) for line in decisions]
            assert row.taken == [d["attempt"] for d in row.decisions if d["kept"]][-1]

    summary = json.loads((folder / "summary.json").read_text())
    (auto,) = summary["automatic"]
    means = {
        (mode, budget): sum(r.accuracy for r in rows if (r.mode, r.budget) == (mode, budget)) / 2
        for mode in ONE_EACH
        for budget in (20, 60)
    }
    gaps = [means["auto", b] - max(means["frozen", b], means["top", b]) for b in (20, 60)]
    assert auto["gap"]["mean"] == pytest.approx(sum(gaps) / 2)
    printed = capsys.readouterr().out
    assert f"auto is {abs(50 * sum(gaps)):.2f}" in printed
    assert f"| top | {100 * means['top', 20]:.1f} ± " in printed.replace("**", "")
    picture = (folder / "modes.svg").read_text()
    assert all(taken in picture for shares in auto["taken"].values() for taken in shares)

    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote the last row
    assert main(["modes", str(path)]) == 0
    assert "1 to compute" in capsys.readouterr().out
    again = {row.key: row for row in read_rows(results, ModeRow)}
    assert len(again) == 12 and all(again[row.key].accuracy == row.accuracy for row in rows)


def test_without_names_every_mode_is_compared_at_the_stages_of_the_encoder(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(modes=None, budgets=[20], draws=1, workers=2)
    assert main(["modes", str(path)]) == 0
    names = [row.mode for row in read_rows(tmp_path / "runs/modes/results.jsonl", ModeRow)]
    assert set(names) == {
        "frozen", "depth_search", "gradual", "partial-stage2", "linear_then_finetune", "full",
        "replace-stage2", "scratch", "auto",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modes={x: {kind: partial, from_stage: stage9}}"], ["modes.x", "stage9", "stage2"]),
        (["budgets=[5]"], ["budgets", "5", "10 classes"]),
        (["modes={}"], ["modes"]),
        (["data.test=null"], ["data.test"]),
        (["encoder=nowhere.safetensors"], ["nowhere.safetensors", "does not exist"]),
    ],
)
def test_bad_input_is_told_in_one_line(
    config: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    words: list[str],
) -> None:
    assert main(["modes", str(config()), *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs/modes").exists()
