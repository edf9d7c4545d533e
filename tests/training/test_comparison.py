"""Comparisons of real runs: finished, diverged, cut off; and their page."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.__main__ import main as pretrain
from training.__main__ import main
from training.comparison import compare_runs, smooth
from training.comparison_figure import run_styles
from training.errors import InputError
from training.run_reading import read_run

Race = tuple[Path, subprocess.CompletedProcess[str]]
ROW = re.compile(r"<tr><th scope=\"row\">.*?</svg>(?P<label>.*?)</span></th>(?P<cells>.*?)</tr>")


@pytest.fixture
def runs(race: Race, tmp_path: Path) -> Path:
    """The race's runs, copied, so that a test may damage them."""
    return Path(shutil.copytree(race[0] / "runs", tmp_path / "runs"))


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def keep_lines(run: Path, count: int, rest: str = "") -> None:
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(lines[:count]) + rest)


def page_of(runs: Path, *arguments: str) -> str:
    out = runs.parent / "page.html"
    paths = [str(path) for path in sorted(runs.glob("[!.]*"))]
    assert main(["compare", *paths, "--out", str(out), *arguments]) == 0
    return out.read_text(encoding="utf-8")


def table(page: str) -> dict[str, list[str]]:
    """Each row's cells as text, by its run."""
    return {
        row["label"]: [
            html.unescape(re.sub(r"<[^>]+>", " ", cell)).strip()
            for cell in re.findall(r"<td.*?>(.*?)</td>", row["cells"])
        ]
        for row in ROW.finditer(page)
    }


@pytest.mark.slow
def test_ranks_runs_and_says_how_each_ended(runs: Path) -> None:
    rows = table(page_of(runs))
    assert list(rows) == ["adam", "slow", "hopeless"]
    assert [cells[5] for cells in rows.values()] == ["finished", "finished", "diverged"]
    lines = logged(runs / "adam")
    expected = np.mean([line["loss"] for line in lines[-2:]])  # a tenth of 20 lines
    assert float(rows["adam"][0]) == pytest.approx(expected, rel=1e-3)
    assert rows["adam"][2] == "20"
    assert float(rows["adam"][4].replace(",", "")) == pytest.approx(
        lines[-1]["images"] / lines[-1]["seconds"], abs=1
    )


def test_shows_the_settings_that_differ_and_no_others(runs: Path) -> None:
    comparison = compare_runs([runs / "adam", runs / "slow"])
    assert comparison.differing["optimizer.kind"] == ["adam", "sgd"]
    assert comparison.differing["optimizer.lr"] == [0.01, 1e-4]
    assert comparison.differing["optimizer.eps"] == [1e-8, None]
    assert all(key.startswith("optimizer.") for key in comparison.differing)


def test_runs_that_were_cut_off_are_shown_as_such(runs: Path) -> None:
    keep_lines(runs / "slow", 7, rest='{"step": 8, "lo')  # a kill in the middle of a line
    (runs / "adam" / "log.jsonl").unlink()
    rows = table(page_of(runs))
    assert rows["slow"][5] == "unfinished"
    assert rows["slow"][2].split() == ["7", "of", "20"]
    assert rows["adam"][5] == "no steps"
    assert next(iter(rows)) == "slow"


def test_a_run_that_stopped_early_is_not_called_unfinished(
    runs: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    early = "early_stopping={metric: loss, patience: 2, min_change: 0.9}"
    assert pretrain([str(config), "steps=40", early]) == 0
    run = read_run(tmp_path / "runs" / "digits")
    assert run.steps < 40
    assert run.ending == "stopped early"


def test_a_diverged_run_that_goes_on_well_is_diverged_no_more(runs: Path) -> None:
    assert read_run(runs / "hopeless").ending == "diverged"
    assert "the loss is" in (runs / "hopeless" / "diverged.txt").read_text()
    (runs / "hopeless" / "diverged.txt").unlink()
    assert read_run(runs / "hopeless").ending == "unfinished"


def test_the_metric_and_what_is_better_can_be_chosen(runs: Path) -> None:
    for run, rate in (("adam", 10.0), ("slow", 30.0), ("hopeless", 20.0)):
        lines = [{**line, "images_per_second": rate} for line in logged(runs / run)]
        (runs / run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (runs / "hopeless" / "diverged.txt").unlink()
    arguments = ["--metric", "images_per_second", "--mode"]
    assert list(table(page_of(runs, *arguments, "max"))) == ["slow", "hopeless", "adam"]
    assert list(table(page_of(runs, *arguments, "min"))) == ["adam", "hopeless", "slow"]


def test_runs_of_one_name_are_told_apart(runs: Path) -> None:
    other = Path(shutil.copytree(runs / "adam", runs / "again" / "adam"))
    comparison = compare_runs([runs / "adam", other, runs / "slow", runs / "adam" / ".." / "slow"])
    labels = {entry.label for entry in comparison.entries}
    assert labels == {str(runs / "adam"), str(other), "slow"}


def test_curves_on_the_page_are_the_logged_ones(runs: Path) -> None:
    page = page_of(runs)
    for position in ("step", "images", "seconds"):
        chart = re.search(
            rf'data-reading="([^"]*)"><svg (?:(?!</svg>).)*main-{position}-wide.*?</svg>',
            page,
            re.DOTALL,
        )
        assert chart is not None
        reading = json.loads(html.unescape(chart[1]))
        left, top, right, bottom = reading["frame"]
        path = re.search(r'id="main-\w+-wide-run-0">\s*<path d="([^"]*)"', chart[0])
        assert path is not None
        pixels = np.array(re.findall(r"-?[\d.]+", path[1]), float).reshape(-1, 2)
        x = np.interp(pixels[:, 0], [left, right], reading["x"])
        ends = np.log(reading["y"]) if reading["logarithmic"] else np.array(reading["y"])
        y = ends[0] + (bottom - pixels[:, 1]) / (bottom - top) * (ends[1] - ends[0])
        y = np.exp(y) if reading["logarithmic"] else y

        lines = logged(runs / "adam")
        places = np.array([line[position] for line in lines])
        values = smooth(np.array([line["loss"] for line in lines]))
        assert x[[0, -1]] == pytest.approx(places[[0, -1]], rel=1e-3, abs=1e-3)
        assert y == pytest.approx(np.interp(x, places, values), rel=0.01)


def test_the_page_needs_nothing_from_elsewhere(runs: Path) -> None:
    page = page_of(runs)
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', page)
    assert "@import" not in page
    assert {"lr", "grad_norm", "images_per_second"} <= set(re.findall("<h3>(.*?)</h3>", page))
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_curves_can_be_had_as_a_picture(runs: Path) -> None:
    keep_lines(runs / "adam", 0)
    out = runs.parent / "race.png"
    paths = [str(runs / name) for name in ("adam", "slow", "hopeless")]
    assert main(["compare", *paths, "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 1500


def test_names_cannot_become_markup(runs: Path) -> None:
    (runs / "slow").rename(runs / "<b>slow & low")
    assert "<b>slow" not in page_of(runs)


def test_many_runs_look_different() -> None:
    styles = run_styles(32)
    assert len({(style.role, style.dashes) for style in styles}) == 32


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("damage", "arguments", "words"),
    [
        (lambda run: None, ["--metric", "accuracy"], ["--metric", "accuracy", "grad_norm", "loss"]),
        (lambda run: (run / "config.yaml").unlink(), [], ["slow", "not a run", "config.yaml"]),
        (lambda run: shutil.rmtree(run), [], ["slow", "no such run"]),
        (lambda run: (run / "config.yaml").write_text("[}"), [], ["config.yaml", "damaged"]),
        (lambda run: keep_lines(run, 3, rest="{}\n"), [], ["log.jsonl", "line 4"]),
    ],
)
def test_bad_input_is_told_in_one_line(
    damage: Damage,
    arguments: list[str],
    words: list[str],
    runs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(runs / "slow")
    out = runs.parent / "page.html"
    paths = [str(runs / "adam"), str(runs / "slow")]
    assert main(["compare", *paths, "--out", str(out), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line
    assert not out.exists()


def test_runs_without_a_step_have_nothing_to_compare(runs: Path) -> None:
    keep_lines(runs / "adam", 0)
    with pytest.raises(InputError, match="no step is logged"):
        compare_runs([runs / "adam"])
