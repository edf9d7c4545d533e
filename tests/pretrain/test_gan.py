"""The GAN whose discriminator is kept: who is trained when and by what, and what is exported."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from data.batches import Batches
from models.artifact import load_encoder, save_encoder
from models.encoders import Encoder
from pretrain.adversarial import discriminator_loss, generator_loss, pair_loss
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.gan import Gan
from pretrain.gradient_penalty import Judged, ZeroCentred, penalty
from pretrain.objective import to_float
from training.compute import ComputeConfig, make_accelerator
from training.health import HealthProbe
from training.loop import Trainer
from training.optimizers import AdamWConfig
from training.randomness import StepDraws
from training.schedules import ConstantSchedule
from training.trainable import Phase

IMAGES = torch.from_numpy(load_digits().images[:64, None] * (255 / 16)).to(torch.uint8)
ROWS = 16
STEPS = 12
PLAIN = {"kind": "conv", "widths": [4, 6], "norm": "none", "activation": "leaky_relu"}
SMALL = {"kind": "conv", "latent": 5, "norm": "none"}
TERMS: dict[str, Any] = {
    "rotation": {"weight": 0.5, "generator_weight": 0.2},
    "reconstruction": 2.0,
    "inference": True,
}


def config_of(objective: dict[str, Any] | None = None, **others: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "name": "gan",
        "steps": STEPS,
        "batch_size": ROWS,
        "data": {"shards": "none.tar"},
        "encoder": PLAIN,
        "optimizer": {"kind": "sgd", "lr": 0.05},
    }
    players = {"kind": "gan", "generator": SMALL, **(objective or {})}
    return PretrainConfig.model_validate({**values, "objective": players, **others})


def gan(objective: dict[str, Any] | None = None, **others: Any) -> Gan:
    """A GAN that is trained by no one."""
    module = build_objective(config_of(objective, **others), IMAGES)
    assert isinstance(module, Gan)
    module.bind_phases()
    module.total_steps = STEPS
    return module


def training(
    objective: dict[str, Any] | None = None, *, steps: int = STEPS, **others: Any
) -> tuple[Trainer, Gan]:
    config = config_of(objective, **others)
    module = build_objective(config, IMAGES)
    assert isinstance(module, Gan)
    trainer = Trainer(
        module,
        Batches(IMAGES, batch_size=config.batch_size, seed=0),
        total_steps=steps,
        schedule=ConstantSchedule(warmup=0),
        compute=config.compute,
        seed=0,
        accelerator=make_accelerator(ComputeConfig(), cpu=True),
    )
    return trainer, module


def batch(rows: int = ROWS) -> dict[str, Tensor]:
    return {"images": IMAGES[:rows]}


def draws(step: int = 0, rows: int = ROWS) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), rows, 0, rows)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The first part of the names of what is not as it was."""
    return {n.split(".")[0] for n, value in before.items() if not torch.equal(value, after[n])}


def statistics(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: v.clone() for name, v in encoder.named_buffers() if "running" in name}


# ---------------------------------------------------------------- whose turn it is


@pytest.mark.parametrize(
    ("objective", "encoder"),
    [
        ({"penalty": {"kind": "zero_centred"}, "export": "ema_discriminator"}, PLAIN),
        ({"loss": {"kind": "relativistic"}}, {**PLAIN, "norm": "batch"}),
        ({**TERMS, "generator": {**SMALL, "norm": "batch"}}, {**PLAIN, "norm": "batch"}),
    ],
    ids=["penalty", "batch norm", "all terms"],
)
def test_each_phase_moves_its_own_player_alone(
    objective: dict[str, Any], encoder: dict[str, Any]
) -> None:
    trainer, module = training(objective, encoder=encoder)
    order, before = [], []

    def note(_: nn.Module, args: tuple[str, Any, Any]) -> None:
        order.append(args[0])
        before.append((weights(module), statistics(module.encoder)))

    module.register_forward_pre_hook(note)
    trainer.train_step(0)
    assert order == ["discriminator", "generator"]
    (first, _), (second, statistics_then) = before
    discriminators = {"encoder", "head"}
    generators = {"generator", "generator_average"}
    if objective.get("inference"):
        discriminators |= {"decoder", "rotation_head"}
        generators |= {"inference"}
    if objective.get("export") == "ema_discriminator":
        generators |= {"encoder_average"}  # moved when both phases are over
    assert changed(first, second) == discriminators
    assert changed(second, weights(module)) == generators
    for name, value in statistics(module.encoder).items():
        assert torch.equal(value, statistics_then[name]), name


def test_the_generator_is_trained_in_every_nth_step_only() -> None:
    trainer, module = training({"d_steps": 3})
    moved = []
    for step in range(7):
        before = weights(module)
        metrics = trainer.train_step(step)
        players = changed(before, weights(module)) - {"generator_average"}
        assert players >= {"encoder", "head"}
        assert ("generator/loss" in metrics) == ("generator" in players)
        moved.append("generator" in players)
    assert moved == [False, False, True, False, False, True, False]


def test_a_phase_is_due_in_the_last_step_of_each_group_of_its_span() -> None:
    phase = Phase("x", [], AdamWConfig(), lambda *_: (torch.zeros(()), {}), span=(0.5, 1), every=3)
    assert [step for step in range(25) if phase.is_due(step, 20)] == [12, 15, 18]
    always = Phase("x", [], AdamWConfig(), lambda *_: (torch.zeros(()), {}), span=(0, 0.25))
    assert [step for step in range(25) if always.is_due(step, 20)] == [0, 1, 2, 3, 4]


def test_a_measurement_of_health_changes_no_training() -> None:
    """With all that is remembered between steps: the chance, the penalty and the averages."""
    objective = {
        "inputs": {"augment": {"shift": 0.2}, "adaptive": {"images": 60, "target": 0.0}},
        "penalty": {"kind": "zero_centred", "every": 3},
        "export": "ema_discriminator",
    }
    states = []
    for is_measured in (False, True):
        trainer, module = training(objective)
        for step in range(8):
            probe = HealthProbe(module) if is_measured and step % 2 else None
            trainer.train_step(step, probe=probe)
        states.append(state(module))
    assert states[0]["inputs.chance"] > 0 and states[0]["last_penalty"] > 0
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "non_saturating", "label_smoothing": 0.1},
        {"kind": "minimax"},
        {"kind": "least_squares"},
        {"kind": "hinge"},
        {"kind": "wasserstein", "clip": 0.2},
        {"kind": "relativistic"},
    ],
    ids=lambda loss: str(loss["kind"]),
)
def test_the_players_lose_what_their_formulas_say(loss: dict[str, Any], inference: bool) -> None:
    module = gan({"loss": loss, "inference": inference}).eval()
    real = to_float(IMAGES[:ROWS])
    found = {phase: module(phase, batch(), draws())[0] for phase in ("discriminator", "generator")}
    inferred = None
    if module.inference is not None:
        mean, log_variance = module.inference(real)
        inferred = mean + (log_variance / 2).exp() * draws().randn("inference", 5)
    logits = {}
    for phase in found:
        codes = draws().randn(f"latent/{phase}", 5)
        given = codes if inference else None
        features = module.encoder(module.generator(codes))
        logits[phase] = (
            module.head(module.encoder(real), inferred),
            module.head(features, given),
        )
    kind = module.config.loss
    expected = discriminator_loss(kind, *logits["discriminator"])
    torch.testing.assert_close(found["discriminator"], expected)
    of_generator = pair_loss if inference else generator_loss
    torch.testing.assert_close(found["generator"], of_generator(kind, *logits["generator"]))


def test_a_lazy_penalty_is_in_every_nth_loss_and_in_each_of_eval_mode() -> None:
    module = gan({"penalty": {"kind": "zero_centred", "real": 2.0, "fake": 1.0, "every": 2}})
    plain = gan()

    def each(step: int) -> Tensor:
        codes = draws(step).randn("latent/discriminator", 5)
        return penalty(
            ZeroCentred(real=2.0, fake=1.0),
            lambda judged: module.head(module.encoder(judged.images)),
            Judged(to_float(IMAGES[:ROWS])),
            Judged(module.generator(codes)),
            draws(step),
        )

    def added(step: int) -> tuple[Tensor, Tensor]:
        """What it adds to the loss, and what is told of it."""
        loss, metrics = module("discriminator", batch(), draws(step))
        without, _ = plain("discriminator", batch(), draws(step))
        torch.testing.assert_close(metrics["adversarial"], without)
        return loss - without, metrics["penalty"]

    assert added(0) == (0, 0) and each(1) > 0.01
    # Counted twice in every other step; until the next the last one is told.
    torch.testing.assert_close(added(1), (2 * each(1), each(1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(added(2), (torch.tensor(0.0), each(1)), rtol=1e-4, atol=1e-5)
    module.eval()
    plain.eval()
    for step in (0, 1):
        torch.testing.assert_close(added(step), (each(step), each(step)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_discriminator_has_its_penalty() -> None:
    """Compiled code is differentiable once alone."""
    gradients = []
    for is_compiled in (False, True):
        module = gan({"penalty": {"kind": "zero_centred"}})
        if is_compiled:
            module.encoder.compile(backend="aot_eager")
            module.head.compile(backend="aot_eager")
        module("discriminator", batch(), draws())[0].backward()
        gradients.append([parameter.grad for parameter in module.encoder.parameters()])
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_running_statistics_are_those_of_real_images_alone() -> None:
    """Also with what else passes through the encoder, and though noise is what is generated."""
    terms = {"rotation": TERMS["rotation"], "reconstruction": 1.0, "loss": {"kind": "relativistic"}}
    trainer, module = training(terms, encoder={**PLAIN, "norm": "batch"})
    real = to_float(trainer.batches.batch(0)["images"])
    twin = copy.deepcopy(module.encoder)
    twin(real)
    trainer.train_step(0)
    expected = statistics(twin)
    assert len(expected) == 4
    for name, value in statistics(module.encoder).items():
        torch.testing.assert_close(value, expected[name])


def test_batch_norm_normalizes_real_and_generated_images_apart() -> None:
    module = gan(encoder={**PLAIN, "norm": "batch"})
    judged: list[Tensor] = []
    module.head.register_forward_pre_hook(lambda _, args: judged.append(args[0].detach()))
    module("discriminator", batch(), draws())
    twin = copy.deepcopy(module.encoder)
    with torch.no_grad():
        generated = module.generator(draws().randn("latent/discriminator", 5))
        expected = [twin(to_float(IMAGES[:ROWS])), twin(generated)]
    for found, features in zip(judged, expected, strict=True):
        torch.testing.assert_close(found, features)


def test_clipped_weights_are_within_their_bound_whenever_the_generator_is_trained() -> None:
    trainer, module = training(
        {"loss": {"kind": "wasserstein", "clip": 0.01}, "d_steps": 2},
        optimizer={"kind": "sgd", "lr": 3.0},
    )

    def largest() -> float:
        critic = [*module.encoder.parameters(), *module.head.parameters()]
        return max(weight.abs().max().item() for weight in critic)

    used = []
    module.head.register_forward_pre_hook(lambda *_: used.append(largest()))
    moved = weights(module)
    for step in range(4):
        trainer.train_step(step)
        used.append(largest())
    # Of each pass of the head and of the end of each step.
    assert max(used) <= 0.01 and len(used) > 8
    assert changed(moved, weights(module)) >= {"encoder", "head", "generator"}


# ---------------------------------------------------------------- groups, micro-batches, eval mode


def test_micro_batches_equal_one_batch() -> None:
    """With all that looks at single rows, at pairs or at groups of four."""
    objective = {
        **TERMS,
        "penalty": {"kind": "interpolated", "every": 2},
        "minibatch_std": True,
        "loss": {"kind": "relativistic"},
        "inputs": {
            "augment": {"shift": 0.2, "rotation": 20},
            "adaptive": {"images": 100, "target": 0.3},
            "noise": 0.1,
        },
    }
    results = []
    for accumulation in (1, 2):
        trainer, module = training(objective, compute={"accumulation": accumulation})
        lines = [trainer.train_step(step) for step in range(4)]
        results.append((state(module), lines[-1]))
    (whole, line), (parts, of_parts) = results
    for name in whole.keys() - {"last_penalty"}:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-5)
    assert whole["inputs.chance"] > 0
    for name in ("discriminator/loss", "discriminator/penalty", "generator/loss"):
        assert float(of_parts[name]) == pytest.approx(float(line[name]), rel=1e-3)


@pytest.mark.parametrize("inference", [False, True])
def test_in_eval_mode_groups_of_four_need_not_be_whole(inference: bool) -> None:
    module = gan(
        {"minibatch_std": True, "inference": inference, "penalty": {"kind": "interpolated"}}
    )
    module.eval()
    images = to_float(IMAGES[:7])
    found = module.judge(images)
    assert found.shape == (7,)
    torch.testing.assert_close(found[:4], module.judge(images[:4]))
    filled = torch.cat([images[4:], images[:1]])
    torch.testing.assert_close(found[4:], module.judge(filled)[:3])
    for phase in ("discriminator", "generator"):
        loss, _ = module(phase, batch(7), draws(rows=7))
        assert loss.isfinite()


# ---------------------------------------------------------------- averages and exports


def test_averages_follow_the_players_and_stay_in_eval_mode() -> None:
    norms = {**PLAIN, "norm": "batch"}
    trainer, module = training(
        {"ema": 0.3, "export": "ema_discriminator", "generator": {**SMALL, "norm": "batch"}},
        encoder=norms,
    )
    assert module.encoder_average is not None
    pairs = [
        (module.generator_average.module, module.generator),
        (module.encoder_average.module, module.encoder),
    ]
    expected = [state(followed) for _, followed in pairs]
    for step in range(5):
        trainer.train_step(step)
        share = 1 - min(0.3, (1 + step) / (10 + step))
        for values, (_, followed) in zip(expected, pairs, strict=True):
            for name, value in followed.state_dict().items():
                is_float = value.is_floating_point()
                values[name] = values[name].lerp(value, share) if is_float else value.clone()
    module.train()
    for values, (average, followed) in zip(expected, pairs, strict=True):
        assert followed.training and not any(part.training for part in average.modules())
        assert not any(weight.requires_grad for weight in average.parameters())
        for name, value in average.state_dict().items():
            torch.testing.assert_close(value, values[name], rtol=1e-4, atol=1e-6)
        assert changed(values, state(followed))


def exported(tmp_path: Path, module: Gan) -> Encoder:
    path = tmp_path / "encoder.safetensors"
    header = {"fingerprint": "0", "images": 1}
    save_encoder(path, module.exported(), trained_on=header, config={"seed": 0})
    return load_encoder(path).eval()


def test_what_is_exported_is_what_was_asked_for(tmp_path: Path) -> None:
    images, found = to_float(IMAGES[:8]), {}
    for export in ("discriminator", "ema_discriminator", "encoder"):
        trainer, module = training(
            {"export": export, "inference": True}, encoder={**PLAIN, "spectral_norm": True}
        )
        for step in range(3):
            trainer.train_step(step)
        module.eval()
        networks = {
            "discriminator": module.encoder,
            "encoder": module.inference and module.inference.encoder,
            "ema_discriminator": module.encoder_average and module.encoder_average.module,
        }
        network = networks[export]
        assert isinstance(network, Encoder)
        found[export] = exported(tmp_path, module)(images)
        torch.testing.assert_close(found[export], network(images))
    one, other, last = found.values()
    assert (one - other).abs().max() > 1e-4
    assert (one - last).abs().max() > 1e-4 and (other - last).abs().max() > 1e-4
