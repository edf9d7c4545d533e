"""The adversarial autoencoder: its players, what the prior does to its codes, and a real run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from data.batches import Batches
from models.artifact import load_encoder
from pretrain.adversarial_autoencoder import AdversarialAutoencoder
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.corruption import corrupt
from pretrain.objective import to_float
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import weights
from training.compute import ComputeConfig, make_accelerator
from training.errors import InputError
from training.loop import Trainer
from training.randomness import StepDraws

PHASES = ("discriminator", "autoencoder")
IMAGES = torch.from_numpy((load_digits().images * 255 / 16).astype(np.uint8)[:, None])
BATCH = {"images": IMAGES[:24]}


def config_of(steps: int = 10, rate: float = 3e-3, **values: Any) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "name": "codes",
            "steps": steps,
            "batch_size": 64,
            "data": {"shards": "none"},
            "encoder": {"kind": "conv", "widths": [8, 16], "norm": "none"},
            "optimizer": {"kind": "adamw", "lr": rate, "betas": [0.5, 0.99]},
            "objective": {"kind": "adversarial_autoencoder", "latent": 4, **values},
        }
    )


def objective(**values: Any) -> AdversarialAutoencoder:
    module = build_objective(config_of(**values), IMAGES)
    assert isinstance(module, AdversarialAutoencoder)
    module.bind_phases()
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


def draws(start: int = 0, stop: int = 24, step: int = 0) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), 24, start, stop)


def codes_of(module: AdversarialAutoencoder, images: Tensor) -> Tensor:
    return module.code(module.encoder(images).flatten(1))


def descend(module: AdversarialAutoencoder, phase: str, rate: float = 1e-3) -> None:
    """Take a step of plain gradient descent in one phase."""
    parameters = {p.name: [w for _, w in p.parameters] for p in module.phases()}[phase]
    for weight in module.parameters():
        weight.grad = None
    module(phase, BATCH, draws())[0].backward()
    with torch.no_grad():
        for weight in parameters:
            if weight.grad is not None:
                weight.sub_(rate * weight.grad)


# ---------------------------------------------------------------- the players


def test_the_discriminator_is_trained_first_and_the_rest_then() -> None:
    module = objective()
    owned = {phase.name: {name for name, _ in phase.parameters} for phase in module.phases()}
    assert tuple(owned) == PHASES
    judging = {name for name, _ in module.named_parameters() if name.startswith("discriminator.")}
    assert owned["discriminator"] == judging
    assert owned["autoencoder"] == {name for name, _ in module.named_parameters()} - judging

    module("discriminator", BATCH, draws())[0].backward()
    assert {name for name, p in module.named_parameters() if p.grad is not None} == judging
    module("autoencoder", BATCH, draws())[0].backward()
    assert all(p.grad is not None and p.grad.any() for _, p in module.named_parameters())


@pytest.mark.parametrize("error", ["mse", "bce", "huber"])
def test_the_autoencoder_restores_the_clean_image_from_codes_that_look_real(error: str) -> None:
    module = objective(error=error, weight=0.3, corruption={"kind": "masking", "share": 0.5})
    images = to_float(BATCH["images"])
    seen = corrupt(module.config.corruption, images, draws()).images
    codes = codes_of(module, seen)
    output = module.decoder(module.features(codes))
    expected = {
        "mse": F.mse_loss(output, images),
        "bce": F.binary_cross_entropy_with_logits(output, images),
        "huber": F.huber_loss(output, images, delta=0.1),
    }[error]
    loss, metrics = module("autoencoder", BATCH, draws())
    torch.testing.assert_close(metrics["error"], expected.detach())
    expected = F.softplus(-module.discriminator(codes)).mean()
    torch.testing.assert_close(metrics["adversarial"], expected.detach())
    torch.testing.assert_close(loss, metrics["error"] + 0.3 * metrics["adversarial"])


def test_losses_are_those_of_what_the_discriminator_says() -> None:
    """Of one that says the same of every code."""
    for kind, of_judge, of_encoder in (
        ("non_saturating", F.softplus(torch.tensor(-1.5)) + F.softplus(torch.tensor(1.5)), 0.2014),
        ("least_squares", torch.tensor(0.5 * (0.5**2 + 1.5**2)), 0.125),
        ("hinge", torch.tensor(2.5), -1.5),
    ):
        module = objective(loss={"kind": kind})
        with torch.no_grad():
            module.discriminator.output.weight.zero_()
            module.discriminator.output.bias.fill_(1.5)
        loss, told = module("discriminator", BATCH, draws())
        assert loss.item() == pytest.approx(of_judge.item(), rel=1e-5)
        assert told["accuracy_real"] == 1 and told["accuracy_fake"] == 0
        metrics = module("autoencoder", BATCH, draws())[1]
        assert metrics["adversarial"].item() == pytest.approx(of_encoder, abs=1e-4)


@pytest.mark.parametrize("kind", ["non_saturating", "minimax", "least_squares", "hinge"])
def test_each_player_wants_what_the_other_does_not(kind: str) -> None:
    module = objective(loss={"kind": kind}, weight=1e3)
    images, prior = to_float(BATCH["images"]), torch.randn(512, 4)

    def said() -> tuple[float, float]:
        with torch.no_grad():
            codes = codes_of(module, images)
            return tuple(module.discriminator(some).mean().item() for some in (prior, codes))

    of_prior, of_codes = said()
    descend(module, "discriminator", 1e-2)
    after_prior, after_codes = said()
    assert after_prior - after_codes > of_prior - of_codes
    descend(module, "autoencoder", 1e-6)
    assert said()[1] > after_codes


def test_the_loss_is_a_mean_over_the_rows_of_the_global_batch() -> None:
    module = objective(corruption={"kind": "gaussian"})
    for phase in PHASES:
        whole = module(phase, BATCH, draws())[0]
        parts = [
            module(phase, {"images": IMAGES[start : start + 12]}, draws(start, start + 12))[0]
            for start in (0, 12)
        ]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_critic_of_codes_needs_bounded_weights() -> None:
    with pytest.raises(InputError, match=r"objective\.loss\.kind: found 'wasserstein'.*loss\.clip"):
        build_objective(config_of(loss={"kind": "wasserstein"}), IMAGES)
    bounded = trainer(config_of(loss={"kind": "wasserstein", "clip": 0.02}))
    module = bounded.trainable
    assert isinstance(module, AdversarialAutoencoder)
    for step in range(3):
        bounded.train_step(step)
        assert max(p.abs().max().item() for p in module.discriminator.parameters()) <= 0.02
    assert module.code.linear.weight.abs().max() > 0.1


def test_its_player_may_have_an_optimizer_of_its_own() -> None:
    values = config_of().model_dump()
    values["discriminator_optimizer"] = {"lr": 1e-4}
    rates = [phase.optimizer.lr for phase in trainer(config_of()).trainable.phases()]
    assert rates == [3e-3, 3e-3]
    own = trainer(PretrainConfig.model_validate(values))
    metrics = own.train_step(0)
    assert metrics["autoencoder/lr"] == pytest.approx(30 * float(metrics["discriminator/lr"]))


# ---------------------------------------------------------------- what it is for


def away_from_the_prior(weight: float) -> tuple[float, float, float]:
    """Of each code's values after training: |mean|, |variance - 1| and the KS statistic."""
    learned = trainer(config_of(300, 1e-2, latent=8, weight=weight))
    for step in range(300):
        learned.train_step(step)
    module = learned.trainable.eval()
    assert isinstance(module, AdversarialAutoencoder)
    with torch.no_grad():
        codes = codes_of(module, to_float(IMAGES))
        error = F.mse_loss(module.decoder(module.features(codes)), to_float(IMAGES))
    assert error < 0.5 * to_float(IMAGES).var(0).mean(), "it also restores images"
    statistics = [scipy.stats.kstest(column, "norm").statistic for column in codes.T.numpy()]
    mean, variance = codes.mean(0).abs().mean(), (codes.var(0) - 1).abs().mean()
    return mean.item(), variance.item(), float(np.mean(statistics))


@pytest.mark.slow
def test_codes_come_near_the_prior() -> None:
    free, held = away_from_the_prior(1e-9), away_from_the_prior(0.02)
    assert all(ours < 0.5 * theirs for ours, theirs in zip(held, free, strict=True)), (held, free)
    assert held[2] < 0.15


@pytest.mark.slow
def test_a_run_resumes_exactly_and_shows_what_it_has_learned(
    run_pretrain: Command, tmp_path: Path
) -> None:
    options = [
        "objective.kind=adversarial_autoencoder", "objective.latent=6", "data.held_out=0.1",
        "probe.every=6", "optimizer.lr=3e-3",
    ]  # fmt: skip
    run_pretrain(*options)
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run)
    (run / "checkpoints/LATEST").write_text("step-00000008\n")
    run_pretrain(*options, "--resume")
    after = weights(run)
    assert all(torch.equal(after[name], value) for name, value in uninterrupted.items())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    for name in ("autoencoder/error", "autoencoder/adversarial", "discriminator/accuracy_fake"):
        assert name in last and f"held_out/{name}" in last
    pictures = {path.name.split("-")[0] for path in (run / "previews").iterdir()}
    assert pictures >= {"reconstructions", "samples", "filters"}
    assert load_encoder(run / "encoder.safetensors").stage_names == ["stage1", "stage2"]
