"""A GAN with an encoder from images to codes: who learns what from whom, and a real run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from data.batches import Batches
from models.artifact import load_encoder, save_encoder
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.objective import to_float
from pretrain.vae_gan import VaeGan, feature_distance
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import weights
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws

PHASES = ("discriminator", "generator", "encoder")
IMAGES = torch.from_numpy((load_digits().images * 255 / 16).astype(np.uint8)[:, None])
BATCH = {"images": IMAGES[:24]}


def config_of(
    steps: int = 10, norm: str = "none", rate: float = 3e-3, **values: Any
) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "name": "vae_gan",
            "steps": steps,
            "batch_size": 64,
            "data": {"shards": "none"},
            "encoder": {
                "kind": "conv",
                "widths": [8, 16],
                "norm": norm,
                "activation": "leaky_relu",
            },
            "optimizer": {"kind": "adamw", "lr": rate, "betas": [0.5, 0.99]},
            "objective": {
                "kind": "vae_gan",
                "generator": {"kind": "conv", "latent": 4, "norm": "none"},
                **values,
            },
        }
    )


def objective(norm: str = "none", **values: Any) -> VaeGan:
    module = build_objective(config_of(norm=norm, **values), IMAGES)
    assert isinstance(module, VaeGan)
    module.bind_phases()
    module.total_steps = 100
    return module


def trainer(config: PretrainConfig) -> Trainer:
    assert config.steps is not None
    return Trainer(
        build_objective(config, IMAGES),
        Batches(IMAGES, batch_size=config.batch_size, seed=0),
        total_steps=config.steps,
        schedule=config.schedule,
        compute=config.compute,
        seed=config.seed,
        accelerator=make_accelerator(ComputeConfig(), cpu=True),
    )


def draws(start: int = 0, stop: int = 24) -> StepDraws:
    return StepDraws(0, 0, torch.device("cpu"), 24, start, stop)


def parameters_of(module: VaeGan, phase: str) -> list[torch.nn.Parameter]:
    return [w for _, w in {p.name: p.parameters for p in module.phases()}[phase]]


def gradients(module: VaeGan, loss: Tensor, phase: str) -> list[Tensor | None]:
    wanted = parameters_of(module, phase)
    return list(torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True))


def descend(module: VaeGan, phase: str, rate: float) -> None:
    """Take a step of plain gradient descent in one phase."""
    found = gradients(module, module(phase, BATCH, draws())[0], phase)
    with torch.no_grad():
        for weight, gradient in zip(parameters_of(module, phase), found, strict=True):
            if gradient is not None:
                weight.sub_(rate * gradient)


def say_the_same(module: VaeGan, logit: float) -> None:
    """Let the discriminator say the same of every image."""
    with torch.no_grad():
        for weight in module.head.parameters():
            weight.fill_(0.0 if weight.dim() > 1 else logit)


# ---------------------------------------------------------------- the players


def test_each_phase_owns_its_player_alone() -> None:
    module = objective(export="ema_discriminator", rotation={"weight": 1.0})
    owned = {
        phase.name: {name.split(".")[0] for name, _ in phase.parameters}
        for phase in module.phases()
    }
    assert owned == {
        "discriminator": {"encoder", "head", "rotation_head"},
        "generator": {"generator"},
        "encoder": {"inference"},
    }
    assert tuple(owned) == PHASES


def test_gradients_reach_a_player_and_whom_it_plays_through_alone() -> None:
    module = objective()
    # The loop leaves out the gradients of those that are played through.
    expected = {
        "discriminator": {"discriminator"},
        "generator": {"generator", "discriminator"},
        "encoder": {"encoder", "generator", "discriminator"},
    }
    for name in PHASES:
        loss = module(name, BATCH, draws())[0]
        found = {each: gradients(module, loss, each) for each in PHASES}
        reached = {each for each, values in found.items() if any(g is not None for g in values)}
        assert reached == expected[name]


def test_losses_are_those_of_what_the_discriminator_says_and_the_distance() -> None:
    module = objective(gamma=0.25, beta=3.0)
    say_the_same(module, 1.5)
    loss, metrics = module("discriminator", BATCH, draws())
    said = torch.tensor(1.5)
    assert loss.item() == pytest.approx((F.softplus(-said) + F.softplus(said)).item())
    told = [metrics[f"accuracy_{name}"].item() for name in ("real", "fake", "reconstructed")]
    assert told == [1, 0, 0]
    loss, metrics = module("generator", BATCH, draws())
    of_each = F.softplus(-said).item()
    assert metrics["adversarial"].item() == pytest.approx(of_each)
    assert metrics["adversarial_reconstructed"].item() == pytest.approx(of_each)
    expected = 2 * of_each + 0.25 * metrics["distance"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss, metrics = module("encoder", BATCH, draws())
    expected = metrics["distance"].item() + 3 * metrics["kl"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["non_saturating", "least_squares", "hinge", "relativistic"])
def test_samples_and_reconstructions_are_both_judged(kind: str) -> None:
    """The discriminator's loss falls where either looks less real than the image."""
    module = objective(loss={"kind": kind})
    with torch.no_grad():
        bias = dict(module.head.named_parameters())["judge.0.bias"]
        bias.sub_(2)  # below what `least_squares` wants of either
    images = to_float(BATCH["images"])
    codes = torch.randn(256, 4)

    def said() -> Tensor:
        with torch.no_grad():
            mean, _ = module.inference(images)
            kinds = (images, module.generated(codes), module.generated(mean))
            return torch.stack([module.judge(some).mean() for some in kinds])

    before = said()
    descend(module, "discriminator", 1e-3)
    after = said()
    assert ((after[0] - after[1:]) > (before[0] - before[1:])).all()
    descend(module, "generator", 1e-4)
    assert (said()[1:] > after[1:]).all()


@pytest.mark.parametrize("stage", [None, "stage1", "stage2"])
def test_images_are_compared_in_the_features_of_a_stage(stage: str | None) -> None:
    module = objective(stage=stage)
    with torch.no_grad():
        module.generator.linear.weight.zero_()  # so that it makes one image, whatever the code
        images, made = to_float(BATCH["images"]), module.generator(torch.zeros(24, 4))
        real, restored = (module.encoder.stages(some)[stage or "stage2"] for some in (images, made))
        expected = 0.5 * (real - restored).square().sum() / 24
    torch.testing.assert_close(feature_distance(real, restored), expected)
    for phase in ("generator", "encoder"):
        metrics = module(phase, BATCH, draws())[1]
        torch.testing.assert_close(metrics["distance"], expected)


def test_an_image_and_what_is_restored_of_it_are_changed_alike() -> None:
    """Of a generator that restores its images exactly nothing is asked for."""
    changes = {"augment": {"shift": 0.3, "rotation": 90}, "noise": 0.5}
    module = objective(inputs=changes)
    with torch.no_grad():
        for weight in module.generator.output.parameters():
            weight.fill_(torch.logit(torch.tensor(51 / 255)).item() if weight.dim() == 1 else 0.0)
    grey = {"images": torch.full_like(BATCH["images"], 51)}
    assert module("generator", BATCH, draws())[1]["distance"] > 1
    assert module("generator", grey, draws())[1]["distance"] < 1e-6


def test_the_kl_is_that_of_the_codes_of_images() -> None:
    module = objective()
    mean, log_variance = module.inference(to_float(BATCH["images"]))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    metrics = module("encoder", BATCH, draws())[1]
    torch.testing.assert_close(metrics["kl"], expected.sum(1).mean().detach())


def test_the_encoder_gives_up_kl_for_distance_as_beta_says() -> None:
    for beta, falls in ((1e3, "kl"), (1e-3, "distance")):
        module = objective(beta=beta)
        before = module("encoder", BATCH, draws())[1][falls]
        descend(module, "encoder", 1e-3 / max(1, beta))
        assert module("encoder", BATCH, draws())[1][falls] < before


def test_the_loss_is_a_mean_over_the_rows_of_the_global_batch() -> None:
    changes = {"augment": {"shift": 0.3}, "noise": 0.1}
    module = objective(inputs=changes, stage="stage1")
    for phase in PHASES:
        whole = module(phase, BATCH, draws())[0]
        parts = [
            module(phase, {"images": IMAGES[start : start + 12]}, draws(start, start + 12))[0]
            for start in (0, 12)
        ]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_batch_norm_remembers_real_images_alone() -> None:
    module = objective(norm="batch")
    alone = objective(norm="batch")
    for phase in PHASES:
        module(phase, BATCH, draws())
    alone.encoder(to_float(BATCH["images"]))
    for name, value in alone.encoder.named_buffers():
        torch.testing.assert_close(dict(module.encoder.named_buffers())[name], value)


def test_every_phase_looks_at_the_codes_of_its_images() -> None:
    module = objective()
    with torch.no_grad():
        for name, value in module.inference.posterior.named_parameters():
            value[4:] = -10 if name.endswith("bias") else 0  # the log variances
        mean, _ = module.inference(to_float(BATCH["images"]))
    given: list[Tensor] = []
    module.generator.register_forward_pre_hook(lambda _, codes: given.append(codes[0]))
    for phase in PHASES:
        given.clear()
        module(phase, BATCH, draws())
        assert sum(torch.allclose(codes, mean, atol=0.1) for codes in given) == 1, phase
        assert len(given) == (1 if phase == "encoder" else 2)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match=r"objective\.stage: found 'top'.*stage1, stage2"):
        build_objective(config_of(stage="top"), IMAGES)
    averaged = PretrainConfig.model_validate(
        {**config_of().model_dump(), "average": {"kind": "ema"}}
    )
    with pytest.raises(InputError, match=r"average\.kind: found 'ema'.*objective\.kind 'vae_gan'"):
        build_objective(averaged, IMAGES)
    values = {**config_of(norm="batch").model_dump(), "compute": {"checkpoint_stages": True}}
    with pytest.raises(InputError, match=r"compute\.checkpoint_stages: .* encoder\.norm 'batch'"):
        build_objective(PretrainConfig.model_validate(values), IMAGES)
    with pytest.raises(InputError, match=r"objective\.loss\.kind: found 'wasserstein'"):
        build_objective(config_of(loss={"kind": "wasserstein"}), IMAGES)


# ---------------------------------------------------------------- what it is for


def trained(beta: float) -> tuple[float, float, float]:
    """Mean KS statistic of the codes, and the error of restored images to their own and others."""
    generator = {"kind": "conv", "latent": 8, "norm": "none"}
    config = config_of(200, rate=1e-2, gamma=0.1, beta=beta, generator=generator)
    learned = trainer(config)
    for step in range(200):
        learned.train_step(step)
    module = learned.trainable.eval()
    assert isinstance(module, VaeGan)
    images = to_float(IMAGES[:300])
    with torch.no_grad():
        mean, log_variance = module.inference(images)
        codes = Normal(mean, (log_variance / 2).exp()).sample()
        restored = module.generated(mean)
    statistics = [scipy.stats.kstest(column, "norm").statistic for column in codes.T.numpy()]
    errors = [F.mse_loss(restored, some).item() for some in (images, images.roll(1, 0))]
    return float(np.mean(statistics)), errors[0], errors[1]


@pytest.mark.slow
def test_it_learns_to_restore_digits_and_holds_codes_near_the_prior() -> None:
    away, own, another = trained(beta=1.0)
    free, _, _ = trained(beta=1e-3)
    assert own < 0.75 * another
    assert away < 0.6 * free, (away, free)


@pytest.mark.parametrize("export", ["discriminator", "ema_discriminator", "encoder"])
def test_what_was_asked_for_is_exported(export: str, tmp_path: Path) -> None:
    learned = trainer(config_of(2, export=export))
    for step in range(2):
        learned.train_step(step)
    module = learned.trainable.eval()
    assert isinstance(module, VaeGan)
    save_encoder(
        tmp_path / "encoder.safetensors",
        module.exported(),
        trained_on={"fingerprint": "none", "images": 2},
        config={},
    )
    images = to_float(IMAGES[:5])
    with torch.no_grad():
        found = load_encoder(tmp_path / "encoder.safetensors")(images)
        candidates = {
            "discriminator": module.encoder(images),
            "ema_discriminator": torch.full_like(found, torch.nan),
            "encoder": module.inference.encoder(images),
        }
        if module.encoder_average is not None:
            candidates["ema_discriminator"] = module.encoder_average.module(images)
    assert [name for name, value in candidates.items() if torch.equal(found, value)] == [export]


@pytest.mark.slow
def test_a_run_resumes_exactly_and_shows_what_it_has_learned(
    run_pretrain: Command, tmp_path: Path
) -> None:
    options = [
        "objective.kind=vae_gan", "objective.generator.latent=6", "objective.export=encoder",
        "data.held_out=0.1", "probe.every=6", "optimizer.lr=3e-3",
    ]  # fmt: skip
    done = run_pretrain(*options)
    assert "health: " in done.stdout
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run)
    (run / "checkpoints/LATEST").write_text("step-00000008\n")
    run_pretrain(*options, "--resume")
    after = weights(run)
    assert all(torch.equal(after[name], value) for name, value in uninterrupted.items())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    for name in ("encoder/kl", "generator/distance", "discriminator/accuracy_reconstructed"):
        assert name in last and f"held_out/{name}" in last
    pictures = {path.name.split("-")[0].split(".")[0] for path in (run / "previews").iterdir()}
    assert pictures >= {"reconstructions", "samples", "neighbours"}
