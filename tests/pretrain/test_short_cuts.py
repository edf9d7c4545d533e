"""A task that is solved at once, or never, is told by name at the end of a run."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.artifact import read_artifact
from pretrain.__main__ import main
from pretrain.short_cuts import Score, ScoreWatch
from pretrain.task_objective import TaskObjective
from tests.pretrain.test_tasks import fashion, trainer_of
from training.loop import Trainer


def watched(values: list[float], score: Score, total: int = 1000, rows: int = 64) -> ScoreWatch:
    watch = ScoreWatch("puzzle", score)
    for step, value in enumerate(values):
        watch.note(torch.tensor(value), rows, step, total)
    return watch


QUARTER = Score("accuracy", chance=0.25)
TELLABLE = Score("accuracy", chance=0.25, may_be_solved=True)


@pytest.mark.parametrize(
    ("values", "score", "found"),
    [
        ([1.0] * 50, QUARTER, "was solved at once (accuracy 1.000"),
        ([1.0] * 50, TELLABLE, "was solved at once"),
        ([0.25] * 1000, QUARTER, "was never solved better than by guessing (accuracy 0.250"),
        ([0.3] * 800 + [0.995] * 200, QUARTER, "was solved (accuracy 0.995"),
        ([0.3] * 800 + [0.995] * 200, TELLABLE, None),
        ([0.3] * 1000, QUARTER, None),
        # What is late or early alone counts.
        ([1.0] * 20 + [0.5] * 980, QUARTER, None),
        ([0.25] * 900 + [0.6] * 100, QUARTER, None),
        ([0.25] * 500, QUARTER, None),
        ([0.01] * 1000, Score("accuracy", chance=0.01), "guessing"),
        ([0.03] * 1000, Score("accuracy", chance=0.01), None),
        ([0.01] * 1000, Score("explained", chance=0.0), "guessing"),
    ],
)
def test_what_a_score_says(values: list[float], score: Score, found: str | None) -> None:
    said = watched(values, score).facts().get("puzzle_warning")
    if found is None:
        assert said is None
    else:
        assert isinstance(said, str) and "the task puzzle" in said and found in said


def test_a_score_of_few_rows_may_be_chance() -> None:
    few = watched([0.3] * 100, QUARTER, total=100, rows=4)
    assert "guessing" in str(few.facts()["puzzle_warning"])


def after(trainer: Trainer, steps: int) -> str:
    for step in range(steps):
        trainer.train_step(step)
    objective = trainer.trainable
    assert isinstance(objective, TaskObjective)
    return str(objective.facts(fashion()).get("rotation_warning"))


ROTATION = {"kind": "rotation", "augment": {"horizontal_flip": False, "shift": 0.0}}


def test_a_planted_mark_solves_the_task_at_once() -> None:
    marked = fashion().clone()
    marked[:, :, :3] = 255
    assert "was solved at once" in after(trainer_of(ROTATION, marked, steps=1000), 50)


def symmetric(images: Tensor) -> Tensor:
    """Images that look the same in each quarter turn."""
    turns = [torch.rot90(images, turn, (2, 3)).int() for turn in range(4)]
    return (sum(turns) // 4).to(torch.uint8)


def test_symmetric_images_are_never_told_better_than_by_chance() -> None:
    trainer = trainer_of(ROTATION, symmetric(fashion()), steps=40)
    assert "was never solved better than by guessing" in after(trainer, 40)


def test_real_images_are_told_without_a_warning() -> None:
    assert after(trainer_of(ROTATION, steps=40), 40) == "None"


def test_the_warning_is_printed_and_kept(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # So small a rate teaches nothing.
    options = ["objective.kind=jigsaw", "data.size=28", "optimizer.lr=1e-9", "steps=10"]
    assert main([str(config), *options, f"runs_dir={tmp_path}"]) == 0
    (line,) = [r for r in capsys.readouterr().out.splitlines() if "jigsaw_warning: " in r]
    assert "the task jigsaw was never solved better than by guessing" in line
    metrics = read_artifact(tmp_path / "digits/encoder.safetensors").metrics
    assert metrics["jigsaw_warning"] == line.removeprefix("jigsaw_warning: ")
    assert json.loads(json.dumps(metrics["jigsaw_accuracy"])) < 0.2
