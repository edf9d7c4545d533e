"""Greedy layer-wise stacking: what moves when, what is computed once, and how a run of it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from data.batches import Batches
from data.store import open_store
from models.artifact import load_encoder
from pretrain.__main__ import main
from pretrain.autoencoder import Autoencoder
from pretrain.config import PretrainConfig
from pretrain.objective import to_float
from pretrain.run import make_trainer
from pretrain.stacked import Stacked
from tests.pretrain.conftest import Command
from tests.pretrain.test_autoencoder_terms import explicit_norms
from tests.pretrain.test_command_line import weights
from tests.processes import run_on_ranks
from training.__main__ import main as training_command
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws

Make = Callable[..., Trainer]
STACKED = "objective.kind=stacked"
CONV = {"kind": "conv", "widths": [4, 6, 8]}
DENSE = {"kind": "dense", "widths": [12, 8], "activation": "sigmoid", "norm": "none"}


@pytest.fixture
def make(config: Path, shards: Path) -> Make:
    """Make the trainer of a stack, given the objective's values and other keys' values."""
    values = yaml.safe_load(config.read_text())
    store = open_store(str(shards / "train-*.tar"))
    accelerator = make_accelerator(ComputeConfig(), cpu=True)

    def made(stack: dict[str, Any], **others: Any) -> Trainer:
        of_stack = {"encoder": CONV, "objective": {"kind": "stacked", **stack}, **others}
        return make_trainer(PretrainConfig.model_validate(values | of_stack), store, accelerator)

    return made


def stack(trainer: Trainer) -> Stacked:
    assert isinstance(trainer.trainable, Stacked)
    return trainer.trainable


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """The first two parts of the names of what is not as it was: `blocks.stage1`."""
    now = module.state_dict()
    names = [name for name, value in before.items() if not torch.equal(value, now[name])]
    return {".".join(name.split(".")[:2]) for name in names}


def images_of(trainer: Trainer, shards: Path, step: int) -> Tensor:
    store = open_store(str(shards / "train-*.tar"))
    return to_float(Batches(store.images, batch_size=32, seed=trainer.seed).batch(step)["images"])


# ---------------------------------------------------------------- what is trained when


@pytest.mark.parametrize("corruption", ["masking", "augment"])
def test_only_one_stage_moves_at_a_time(make: Make, corruption: str) -> None:
    """Its batch norm's statistics included: the others are in eval mode, or do not run."""
    trainer = make({"layer": {"kind": "autoencoder", "corruption": {"kind": corruption}}})
    module = stack(trainer)
    for step in range(12):
        encoder, layers = state(module.encoder), state(module.layers)
        metrics = trainer.train_step(step)
        stage = f"stage{1 + step // 4}"
        assert {name.split("/")[0] for name in metrics} == {stage}
        assert changed(encoder, module.encoder) == {f"blocks.{stage}"}
        assert changed(layers, module.layers) == {f"{stage}.decoder"}
    assert all(block.training for block in module.encoder.blocks.values())


def test_lower_stages_go_on_where_told(make: Make) -> None:
    trainer = make({"keep_training_lower": True, "whole": {"share": 0.25}})
    module = stack(trainer)
    seen = []
    for step in range(12):
        before = state(module.encoder)
        trainer.train_step(step)
        seen.append(len(changed(before, module.encoder)))
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]


def test_a_phase_never_changes_what_a_lower_one_is_given(make: Make, shards: Path) -> None:
    """With lower stages training on, an upper one's loss has no gradient in them."""
    trainer = make({"keep_training_lower": True})
    module = stack(trainer)
    trainer.trainable.requires_grad_(True)
    batch = trainer.batches.batch(0)
    loss, _ = module("stage2", batch, StepDraws(0, 0, torch.device("cpu"), 32, 0, 32))
    loss.backward()
    with_gradient = {n for n, p in module.encoder.named_parameters() if p.grad is not None}
    assert {name.split(".")[1] for name in with_gradient} == {"stage2"}


@pytest.mark.parametrize(
    ("objective", "lengths"),
    [
        ({}, [4, 4, 4]),
        ({"whole": {"share": 0.5}}, [2, 2, 2, 6]),
        ({"shares": [1, 2, 3]}, [2, 4, 6]),
        ({"upto": "stage2", "whole": {"share": 0.3}, "shares": [1, 3]}, [2, 6, 4]),
    ],
)
def test_the_phases_take_all_steps_of_the_run_in_turn(
    make: Make, objective: dict, lengths: list[int]
) -> None:
    phases = stack(make(objective)).phases()
    assert [len(phase.steps(12)) for phase in phases] == lengths
    assert [step for phase in phases for step in phase.steps(12)] == list(range(12))
    for total in (7, 100, 8001):
        assert [step for phase in phases for step in phase.steps(total)] == list(range(total))


# ---------------------------------------------------------------- features that are kept


@pytest.mark.parametrize("corruption", ["none", "augment"])
def test_frozen_stages_run_once_over_the_images_and_give_the_same(
    make: Make, shards: Path, corruption: str
) -> None:
    trainer = make({"layer": {"kind": "autoencoder", "corruption": {"kind": corruption}}})
    encoder = stack(trainer).encoder
    rows = []
    encoder.blocks["stage1"].register_forward_hook(lambda *call: rows.append(len(call[2])))
    for step in range(12):
        trainer.train_step(step)
    augmented = 32 if corruption == "augment" else 0
    kept = 300 * 2  # when stage2 starts, and when stage3 starts
    assert sum(rows) == 4 * 32 + kept + 8 * augmented

    batch = trainer.batches.batch(11)
    assert batch.keys() == {"features"} | ({"images"} if augmented else set())
    expected = encoder.eval()(images_of(trainer, shards, 11), upto="stage2")
    torch.testing.assert_close(batch["features"], expected)
    part = trainer.batches.batch(11, 5, 9)["features"]
    assert torch.equal(part, batch["features"][5:9])


def test_what_does_not_fit_is_kept_in_half_precision_or_computed_in_each_step(
    make: Make, shards: Path
) -> None:
    stage1 = 300 * 4 * 8 * 8 * 4 / 2**30  # GiB in float32
    found = {}
    for name, limit in {"float32": stage1, "float16": stage1 / 2, "none": stage1 / 3}.items():
        trainer = make({"cache_gib": limit * 1.01})
        for step in range(5):
            found[name] = float(trainer.train_step(step).get("stage2/loss", 0))
        batch = trainer.batches.batch(4)
        if name == "none":
            assert batch.keys() == {"images"}
        else:
            assert batch["features"].dtype == getattr(torch, name)
    assert found["float16"] == pytest.approx(found["float32"], rel=1e-3)
    assert found["none"] == pytest.approx(found["float32"], rel=1e-5)


# ---------------------------------------------------------------- decoders and losses


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"encoder": {"kind": "conv", "stem": 3, "widths": [4, 6], "blocks": 2}},
        {"encoder": DENSE, "decoder": {"tied": True}},
        {"encoder": {"kind": "residual", "stem": 4, "widths": [4, 6], "blocks": 1}},
        {"decoder": {"upsampling": "nearest"}},
    ],
    ids=["conv", "stem and blocks", "dense and tied", "residual", "nearest"],
)
def test_the_layers_decoders_are_together_that_of_the_whole_autoencoder(
    make: Make, shards: Path, others: dict
) -> None:
    module = stack(make({"whole": {"share": 0.5}}, **others))
    plain = make({}, objective={"kind": "autoencoder"}, **others).trainable
    assert isinstance(plain, Autoencoder)
    image = images_of(make({}), shards, 0)
    plain.eval()
    module.eval()
    expected = plain.decoder(plain.encoder(image))
    assert torch.equal(module._restore(image, module.encoder.stage_names[-1]), expected)
    count = sum(p.numel() for p in plain.parameters())
    assert sum(p.numel() for p in module.parameters()) == count


def test_the_whole_starts_where_the_layers_ended(make: Make, shards: Path) -> None:
    trainer = make({"whole": {"share": 0.5}, "layer": {"kind": "autoencoder", "loss": "huber"}})
    module = stack(trainer)
    for step in range(6):
        trainer.train_step(step)
    before = state(module)
    images = images_of(trainer, shards, 6)
    with torch.no_grad():
        output = module._restore(images, "stage3")
        expected = torch.nn.functional.huber_loss(output, images, delta=0.1)
    module.load_state_dict(before)  # batch norm has counted this pass
    assert trainer.train_step(6)["whole/loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert changed(before, module) == {"encoder.blocks", "layers.stage1"} | {
        "layers.stage2",
        "layers.stage3",
    }


def test_cross_entropy_of_sigmoid_stages_takes_their_values_as_probabilities(make: Make) -> None:
    layer = {"kind": "autoencoder", "loss": "bce", "corruption": {"kind": "none"}}
    module = stack(make({"layer": layer}, encoder=DENSE))
    upper = module.layers["layer2"]
    inputs = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))
    draws = StepDraws(0, 0, torch.device("cpu"), 5, 0, 5)
    loss, _ = upper.loss(module.encoder, inputs, inputs, draws)  # type: ignore[operator]
    restored = upper.decode(module.encoder, upper.encode(module.encoder, inputs))  # type: ignore[operator]
    assert restored.min() > 0 and restored.max() < 1
    torch.testing.assert_close(loss, nn.functional.binary_cross_entropy(restored, inputs))


@pytest.mark.parametrize("stage", ["layer1", "layer2"])
def test_a_stages_closed_form_contraction_is_that_of_its_own_jacobian(
    make: Make, shards: Path, stage: str
) -> None:
    layer = {"kind": "autoencoder", "contraction": {"kind": "closed_form"}}
    layer |= {"corruption": {"kind": "none"}}
    trainer = make({"layer": layer}, encoder=DENSE, decoder={"tied": True})
    encoder = stack(trainer).encoder
    images = images_of(trainer, shards, 0)[:4]
    inputs = images if stage == "layer1" else encoder(images, upto="layer1").detach()
    draws = StepDraws(0, 0, torch.device("cpu"), 4, 0, 4)
    _, metrics = stack(trainer).layers[stage].loss(encoder, inputs, inputs, draws)  # type: ignore[operator]

    class OneStage(nn.Module):
        def forward(self, below: Tensor) -> Tensor:
            return encoder.one_stage(stage, below)

    expected = explicit_norms(OneStage(), inputs).mean()
    torch.testing.assert_close(metrics["jacobian_norm"], expected)


def test_dense_features_are_masked_value_by_value(make: Make) -> None:
    layer = {"kind": "autoencoder", "corruption": {"kind": "masking", "share": 0.5}}
    module = stack(make({"layer": layer}, encoder=DENSE))
    seen = []
    module.encoder.blocks["layer2"].register_forward_hook(lambda *call: seen.append(call[1][0]))
    inputs = torch.ones(64, 12)
    draws = StepDraws(0, 0, torch.device("cpu"), 64, 0, 64)
    module.layers["layer2"].loss(module.encoder, inputs, inputs, draws)  # type: ignore[operator]
    (masked,) = seen
    assert masked.unique().tolist() == [0, 1]
    assert ((masked == 0).float().mean(1) - 0.5).abs().max() < 0.5
    assert 0.45 < (masked == 0).float().mean() < 0.55


# ---------------------------------------------------------------- runs


def objective(values: str) -> list[str]:
    return [f"objective={{kind: stacked, {values}}}", "encoder.norm=group"]


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ("layer: {kind: autoencoder, corruption: {kind: masking}}", ["average.kind=ema"]),
        ("layer: {kind: autoencoder}, whole: {share: 0.5}", ["decoder.tied=true"]),
        ("layer: {kind: autoencoder, corruption: {kind: augment}}, keep_training_lower: true", []),
    ],
    ids=["two stages", "whole and tied", "lower stages go on"],
)
def test_a_run_resumes_exactly_across_a_boundary(
    values: str, others: list[str], config: Path, tmp_path: Path
) -> None:
    """From step 4 over the boundary at step 6, and from step 8 in the middle of stage two."""
    how = [f"objective={{kind: stacked, {values}}}", "data.held_out=0.1", "checkpoint.keep=3"]
    here = [str(config), *how, *others, f"runs_dir={tmp_path / 'runs'}"]
    assert main(here) == 0
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run)
    for step in (4, 8):
        # As if it had been killed after this checkpoint.
        (run / "checkpoints/LATEST").write_text(f"step-0000000{step}")
        (run / "encoder.safetensors").unlink()
        assert main([*here, "--resume"]) == 0
        for name, tensor in weights(run).items():
            assert torch.equal(tensor, uninterrupted[name]), name
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert "stage1/loss" in lines[0] and "held_out/stage1/loss" in lines[0]
    assert "held_out/" + ("whole" if "whole" in values else "stage2") + "/loss" in lines[-1]
    encoder = load_encoder(run / "encoder.safetensors")
    assert encoder(torch.rand(2, 1, 16, 16)).shape == (2, 16, 4, 4)
    assert (run / "previews/reconstructions-00000012.png").exists()
    assert (run / "previews/stage1_reconstructions-00000012.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        "whole: {share: 0.34}",
        "keep_training_lower: true",
    ],
)
def test_two_ranks_equal_one(
    values: str, config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    run_pretrain("name=one", *objective(values), "steps=6")
    run_on_ranks(2, "pretrain", config, "name=two", *objective(values), "steps=6", cwd=tmp_path)
    one, two = weights(tmp_path / "runs/one"), weights(tmp_path / "runs/two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-5)


PRE = {"kind": "residual", "stem": 4, "widths": [4], "activation_order": "pre"}
AE = {"kind": "autoencoder"}


@pytest.mark.parametrize(
    ("values", "others", "found"),
    [
        ({"layer": [AE] * 4}, {}, "objective.layer: found a list of 4 for the encoder's 3 stage"),
        ({"upto": "stage5"}, {}, "objective.upto: found 'stage5', which is none of"),
        ({"upto": "stage2"}, {}, "objective.upto: found 'stage2' with objective.whole.share 0"),
        ({"shares": [1, 1]}, {}, "objective.shares: found 2 for 3 stage(s)"),
        ({}, {"steps": 2}, "steps: found 2, of which the phase 'stage2'"),
        ({}, {"encoder": {"kind": "vit"}}, "'autoencoder' with encoder.kind 'vit'"),
        ({}, {"encoder": PRE}, "encoder.activation_order: found 'pre'"),
        ({}, {"early_stopping": {}}, "early_stopping: found with objective.kind 'stacked'"),
        ({}, {"schedule": {"kind": "plateau"}}, "schedule.kind: found 'plateau' with objective"),
        ({}, {"compute": {"distribution": "fsdp2"}}, "compute.distribution: found 'fsdp2'"),
        ({"layer": {**AE, "loss": "bce"}}, {}, "objective.layer.loss: found 'bce' with encoder."),
        (
            {"layer": [AE, {**AE, "corruption": {"kind": "salt_and_pepper"}}, AE]},
            {},
            "objective.layer.1.corruption.kind: found 'salt_and_pepper'",
        ),
        (
            {"layer": {**AE, "contraction": {"kind": "closed_form"}}},
            {},
            "objective.layer.contraction.kind: found 'closed_form', which is for dense layers",
        ),
        (
            {"layer": {**AE, "contraction": {"kind": "estimate"}}},
            {},
            "objective.layer.contraction.kind: found 'estimate' with encoder.norm 'batch'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make: Make, values: dict, others: dict, found: str
) -> None:
    with pytest.raises(InputError) as error:
        make(values, **others)
    assert found in str(error.value) and "\n" not in str(error.value)


def test_tied_weights_are_refused_where_they_are_spread(make: Make) -> None:
    others = {"decoder": {"tied": True}, "compute": {"distribution": "fsdp2"}}
    with pytest.raises(InputError, match=r"'fsdp2' with decoder.tied true"):
        make({}, objective={"kind": "autoencoder"}, **others)


def test_a_range_of_rates_is_not_swept_over_phases_in_turn(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["find-lr", str(config), STACKED, "--out", str(tmp_path / "lr.png")]
    assert training_command(command) == 2
    assert "error: objective.kind: found 'stacked', each of whose" in capsys.readouterr().err
