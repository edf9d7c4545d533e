"""Tasks whose labels cost nothing: each learns, goes on exactly, and refuses what does not fit."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batches import Batches
from data.bundled_sets import BUNDLED_SETS
from models.artifact import load_encoder
from pretrain.__main__ import main
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.task_objective import TaskObjective
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import assert_one_line, assert_same_weights, weights
from tests.processes import run_on_ranks
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws

# Whose loss is a mean over rows that do not look at each other.
BY_ROW: dict[str, dict[str, Any]] = {
    "rotation": {"kind": "rotation"},
    "relative_position": {"kind": "relative_position"},
    "jigsaw": {"kind": "jigsaw"},
    "colourization": {"kind": "colourization"},
    "transformation": {"kind": "transformation"},
    "projective": {"kind": "transformation", "transformation": {"kind": "projective"}},
    "variational": {"kind": "transformation", "variational": True},
    "exemplar": {"kind": "exemplar", "classes": 40},
    "clusters": {"kind": "clusters", "clusters": 10},
}
TASKS = {
    **BY_ROW,
    "counting": {"kind": "counting"},
    "simclr": {"kind": "contrast"},
    "barlow_twins": {"kind": "contrast", "loss": {"kind": "barlow_twins"}},
    "vicreg": {"kind": "contrast", "loss": {"kind": "vicreg"}},
    "swav": {"kind": "contrast", "loss": {"kind": "swav", "prototypes": 16}},
    "noise_targets": {"kind": "noise_targets"},
}


@cache
def fashion(count: int = 200) -> Tensor:
    """The first bundled images, uint8 [N, 1, 28, 28]."""
    path, _ = BUNDLED_SETS["fashion-mnist-mini"]
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["x_train"][:count]).view(-1, 1, 28, 28)


@cache
def coloured(count: int = 200) -> Tensor:
    """The same on grounds of colour: red under a bright upper half, blue under a dark one."""
    grey = fashion(count).expand(-1, 3, -1, -1).clone()
    is_bright = grey[:, :, :14].float().mean((1, 2, 3)) > grey[:, :, 14:].float().mean((1, 2, 3))
    tint = torch.where(is_bright[:, None], torch.tensor([90, 0, 0]), torch.tensor([0, 0, 140]))
    return (grey.int() + tint[:, :, None, None]).clamp(0, 255).to(torch.uint8)


def config_of(objective: Mapping[str, Any], **values: Any) -> PretrainConfig:
    given: dict[str, Any] = {
        "name": "task",
        "steps": 40,
        "batch_size": 16,
        "data": {"shards": "none"},
        "encoder": {"kind": "conv", "widths": (8, 16)},
        "objective": dict(objective),
    }
    return PretrainConfig.model_validate({**given, **values})


def images_for(objective: Mapping[str, Any]) -> Tensor:
    return coloured() if objective["kind"] == "colourization" else fashion()


def objective_of(objective: Mapping[str, Any], **values: Any) -> TaskObjective:
    module = build_objective(config_of(objective, **values), images_for(objective))
    assert isinstance(module, TaskObjective)
    return module


def trainer_of(
    objective: Mapping[str, Any], images: Tensor | None = None, **values: Any
) -> Trainer:
    config = config_of(objective, **values)
    pictures = images_for(objective) if images is None else images
    module = build_objective(config, pictures)
    batches = Batches(pictures, batch_size=config.batch_size, seed=config.seed)
    return Trainer(
        module,
        module.read(batches),
        total_steps=config.steps or 1,
        schedule=config.schedule,
        compute=config.compute,
        seed=config.seed,
        accelerator=make_accelerator(ComputeConfig(), cpu=True),
    )


@pytest.mark.parametrize("name", TASKS)
def test_its_loss_falls(name: str) -> None:
    trainer = trainer_of(TASKS[name])
    losses = []
    for step in range(40):
        metrics = trainer.train_step(step)
        losses.append(float(metrics["loss"]))
    parameters = dict(trainer.trainable.named_parameters())
    assert [key for key, value in parameters.items() if value.grad is None] == []
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    pictures = trainer.trainable.preview(images_for(TASKS[name])[:16])
    assert all(p.isfinite().all() and p.shape[1] in (1, 3) for p in pictures.values())


@pytest.mark.parametrize("name", TASKS)
def test_resumed_equals_uninterrupted(name: str) -> None:
    options = {"objective": TASKS[name], "average": {"kind": "ema"}}
    # Clusters are made anew within these steps.
    whole, first, second = (trainer_of(**options) for _ in range(3))
    for step in range(16):
        whole.train_step(step)
    for step in range(8):
        first.train_step(step)
    second.load_state(first.state())
    for step in range(8, 16):
        second.train_step(step)
    wanted, found = whole.state().model, second.state().model
    assert wanted.keys() == found.keys()
    assert [key for key, value in wanted.items() if not torch.equal(value, found[key])] == []


@pytest.mark.parametrize("name", BY_ROW)
def test_micro_batches_are_one_batch(name: str) -> None:
    module = objective_of(BY_ROW[name])
    batches = module.read(Batches(images_for(BY_ROW[name]), batch_size=16, seed=0))
    module.bind_phases()
    phase = module.task.name
    module(phase, batches.batch(0), draws(0, 16))  # the clusters are there from now on
    module.eval()
    whole, _ = module(phase, batches.batch(0), draws(0, 16))
    parts = [module(phase, batches.batch(0, a, a + 4), draws(a, a + 4))[0] for a in (0, 4, 8, 12)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-4, atol=1e-5)


def draws(start: int, stop: int, step: int = 0, size: int = 16) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), size, start, stop)


SMALL = ("data.size=28", "encoder.norm=group", "steps=8", "batch_size=16")


@pytest.mark.parametrize("name", ["clusters", "noise_targets", "swav"])
def test_a_run_that_was_killed_goes_on_exactly(name: str, config: Path, tmp_path: Path) -> None:
    of_task = f"objective={dict(TASKS[name])}".replace("'", "")
    here = [str(config), *SMALL, of_task, f"runs_dir={tmp_path / 'runs'}"]
    assert main([*here, "name=whole"]) == 0
    assert main([*here, "name=killed"]) == 0
    killed = tmp_path / "runs/killed"
    (killed / "checkpoints/LATEST").write_text("step-00000004")
    (killed / "encoder.safetensors").unlink()
    assert main([*here, "name=killed", "--resume"]) == 0
    assert_same_weights(tmp_path / "runs/whole", killed)
    encoder = load_encoder(killed / "encoder.safetensors")
    assert encoder(torch.rand(2, 1, 28, 28)).shape == (2, 16, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["simclr", "barlow_twins", "vicreg", "swav", "noise_targets", "clusters", "jigsaw"]
)
def test_two_ranks_equal_one(
    name: str, config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    of_task = f"objective={dict(TASKS[name])}".replace("'", "")
    # Of gradients near 0 Adam would make steps of their rounding.
    same = [*SMALL, of_task, "encoder.norm=layer", "steps=6", "optimizer={kind: sgd, lr: 0.01}"]
    if TASKS[name]["kind"] == "contrast":
        # Of a batch norm each rank has its own statistics.
        same.append("objective.projector.norm=layer")
    run_pretrain("name=one", *same)
    run_on_ranks(2, "pretrain", config, "name=two", *same, cwd=tmp_path)
    one, two = weights(tmp_path / "runs/one"), weights(tmp_path / "runs/two")
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objective.kind=rotation", "decoder.upsampling=nearest"], ["decoder", "'rotation'"]),
        (["objective.kind=jigsaw", "encoder.kind=dense"], ["objective.kind", "'dense'", "conv"]),
        (["objective.kind=counting", "encoder.kind=vit"], ["objective.kind", "'vit'"]),
        (
            ["objective.kind=jigsaw", "data.size=16"],
            ["objective.grid", "3x3 cells", "16x16", "5x5 pixels", "gap 1", "jitter 1", "3x3;"],
        ),
        (["objective.kind=relative_position", "data.size=16"], ["relative_position", "16x16"]),
        (
            ["objective={kind: jigsaw, grid: 2, permutations: 25}"],
            ["objective.permutations", "25", "24"],
        ),
        (["objective.kind=colourization"], ["objective.kind", "1 channel(s)", "another objective"]),
        (["objective.kind=colourization", "data.channels=3"], ["grey in all three channels"]),
        (["objective={kind: exemplar, classes: 301}"], ["objective.classes", "301", "300"]),
        (["objective={kind: clusters, clusters: 301}"], ["objective.clusters", "301", "300"]),
        (["objective.kind=exemplar", "data.held_out=0.1"], ["data.held_out", "'exemplar'"]),
        (["objective.kind=noise_targets", "data.held_out=0.1"], ["data.held_out"]),
        (["objective.kind=contrast", "batch_size=1"], ["batch_size", "'contrast'"]),
        (
            ["objective.kind=counting", "batch_size=2", "compute.accumulation=2"],
            ["batch_size", "compute.accumulation"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    overrides: list[str],
    words: list[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(config), "data.size=28", *overrides]) == 2
    assert_one_line(capsys.readouterr().err, *words)


def test_a_quarter_turn_wants_square_images() -> None:
    with pytest.raises(InputError, match="28x20"):
        build_objective(config_of({"kind": "rotation"}), fashion()[..., :20])


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        ({"kind": "contrast"}, "objective.augment: "),
        (
            {"kind": "combined", "parts": {"a": {"objective": {"kind": "contrast"}}}},
            "objective.parts.a.objective.augment: ",
        ),
    ],
)
def test_colours_are_not_changed_where_there_are_none(objective: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"^{key}found saturation.* images of 5"):
        build_objective(config_of(objective), fashion().expand(-1, 5, -1, -1))


def test_images_held_out_are_asked_about_too(config: Path, tmp_path: Path) -> None:
    options = ["objective.kind=rotation", "data.held_out=0.1", f"runs_dir={tmp_path}"]
    assert main([str(config), *options]) == 0
    lines = (tmp_path / "digits/log.jsonl").read_text().splitlines()
    assert 0 <= json.loads(lines[-1])["held_out/accuracy"] <= 1
