"""The variational autoencoder: its likelihoods, its KL and its bound, and a real run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from models.artifact import load_encoder, read_artifact
from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from models.latent import kl_from_standard_normal
from pretrain.likelihood import Likelihood, LikelihoodConfig
from pretrain.variational import Variational, VariationalConfig, traversals
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import weights
from training.optimizers import AdamWConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig

CONTRACT = InputContract(channels=1, height=6, width=6, mean=(0.4,), std=(0.3,))


def likelihood(channels: int = 1, **values: object) -> Likelihood:
    config: LikelihoodConfig = TypeAdapter(LikelihoodConfig).validate_python(values)
    return Likelihood(config, channels)


def objective(encoder: object = None, **values: object) -> Variational:
    spec = encoder or ConvEncoderConfig(widths=(8, 8))
    built = build_encoder(spec, CONTRACT, seed=0)  # type: ignore[arg-type]
    decoder = build_decoder(MirrorDecoderConfig(), built, seed=1)
    config = VariationalConfig.model_validate({"latent": 5, **values})
    module = Variational(config, built, decoder, AdamWConfig(), StageRatesConfig(), seed=0)
    module.bind_phases()
    module.total_steps = 100
    return module


def batch(count: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"images": torch.randint(256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)}


def draws(step: int, count: int = 16) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), count, 0, count)


# ---------------------------------------------------------------- likelihoods


def test_a_bernoulli_likelihood_is_the_probability_of_black_and_white_images() -> None:
    logits = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).view(-1, 1, 3, 3)
    model = likelihood(kind="bernoulli")
    for one in logits:
        total = model(one.expand(len(every), -1, -1, -1), every).exp().sum()
        assert total.item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("std", [0.3, "learned"])
def test_a_gaussian_likelihood_is_the_normal_density(std: float | str) -> None:
    model = likelihood(kind="gaussian", std=std)
    used = 0.3
    if model.log_scale is not None:
        with torch.no_grad():
            model.log_scale.fill_(math.log(0.2))
        used = 0.2
    output, images = torch.randn(5, 1, 4, 4), torch.rand(5, 1, 4, 4)
    expected = scipy.stats.norm.logpdf(images.numpy(), output.numpy(), used).sum((1, 2, 3))
    np.testing.assert_allclose(model(output, images).detach(), expected, rtol=1e-4)
    # As if each level of 1/256 had the density's probability.
    bits = model.bits_per_dimension(torch.tensor(expected), 16)
    np.testing.assert_allclose(bits, -expected / 16 / math.log(2) + 8, rtol=1e-5)


@pytest.mark.parametrize("mean", [-0.2, 0.0, 0.37, 1.0, 1.4])
@pytest.mark.parametrize("scale", [0.002, 0.05, 1.0])
def test_discretized_probabilities_are_differences_of_logistics(mean: float, scale: float) -> None:
    model = likelihood(kind="discretized")
    assert model.log_scale is not None
    with torch.no_grad():
        model.log_scale.fill_(math.log(scale))
    levels = torch.arange(256).view(256, 1, 1, 1) / 255
    found = model(torch.full_like(levels, mean), levels).exp().double()
    assert found.sum().item() == pytest.approx(1, rel=1e-4)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    expected = np.diff(scipy.stats.logistic.cdf(edges, mean, scale))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-3, atol=1e-9)
    # Far from the mean too there is a slope to follow.
    far = model(torch.tensor([[[[5.0]]]]), torch.zeros(1, 1, 1, 1))
    assert torch.isfinite(far) and far < -5 / scale + 1


def test_every_channel_has_its_scale() -> None:
    model = likelihood(3, kind="discretized")
    assert model.log_scale is not None
    with torch.no_grad():
        model.log_scale.copy_(torch.tensor([-1.0, -3.0, -5.0]))
    images = torch.full((1, 3, 2, 2), 100 / 255)
    parts = []
    for channel in range(3):
        single = likelihood(kind="discretized")
        assert single.log_scale is not None
        with torch.no_grad():
            single.log_scale.copy_(model.log_scale[channel])
        parts.append(single(images[:, :1], images[:, :1]))
    torch.testing.assert_close(model(images, images), sum(parts))


# ---------------------------------------------------------------- the bound


def test_the_kl_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(7, 3), torch.randn(7, 3)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_from_standard_normal(mean, log_variance), expected)


def test_the_bound_lies_below_the_log_likelihood() -> None:
    """Of a model whose log p(x) is known by integrating over a code of one dimension."""
    module = objective(
        DenseEncoderConfig(widths=(6,), norm="none"), latent=1, likelihood={"kind": "bernoulli"}
    ).eval()
    images = {"images": batch(3)["images"] // 128 * 255}
    floats = images["images"] / 255
    codes = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        module.posterior.linear.weight *= 0.1  # so that all of q lies among these codes
        prior = Normal(0.0, 1.0).log_prob(codes[:, 0]) + math.log(16 / 4000)
        for image in floats:
            output = module._decode(codes)
            each = module.likelihood(output, image.expand(len(codes), -1, -1, -1))
            exact = torch.logsumexp(each + prior, 0)
            one = {"images": (image[None] * 255).to(torch.uint8)}
            bounds = [module._loss(one, draws(step, 1))[1]["elbo"] for step in range(400)]
            bound = torch.stack(bounds).mean()
            # E_q[log p(x, z) - log q(z)] = log p(x) - KL(q || p(z | x)), both by integration.
            mean, log_variance = module.posterior(module.encoder(image[None]))
            q = Normal(mean[0, 0], (log_variance[0, 0] / 2).exp())
            log_q = q.log_prob(codes[:, 0])
            weight = log_q.exp() * 16 / 4000
            gap = (weight * (log_q + math.log(16 / 4000) - each - prior + exact)).sum()
            assert gap >= 0
            assert bound.item() == pytest.approx((exact - gap).item(), abs=0.15)


def test_beta_rises_over_its_share_of_the_run_and_is_whole_in_eval_mode() -> None:
    module = objective(beta=4.0, warmup=0.5)
    values = [module("variational", batch(), draws(step))[1] for step in (0, 24, 49, 99)]
    assert [v["beta"].item() for v in values] == pytest.approx([0.08, 2.0, 4.0, 4.0])
    loss, metrics = module("variational", batch(), draws(24))
    expected = 2.0 * metrics["kl"] - metrics["log_likelihood"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    module.eval()
    loss, metrics = module("variational", batch(), draws(0))
    expected = 4.0 * metrics["kl"] - metrics["log_likelihood"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["elbo"] == metrics["log_likelihood"] - metrics["kl"]


def test_free_bits_take_the_reward_from_small_kl_alone() -> None:
    module = objective(free_bits=0.5, warmup=0.0, latent=6)
    mean, log_variance = module.posterior(module.encoder(batch()["images"] / 255))
    by_dimension = kl_from_standard_normal(mean, log_variance).mean(0)
    loss, metrics = module("variational", batch(), draws(0))
    assert (by_dimension < 0.5).any(), "the test needs a dimension on either side"
    expected = by_dimension.clamp_min(0.5).sum()
    assert (loss + metrics["log_likelihood"]).item() == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["kl"].item() == pytest.approx(by_dimension.sum().item(), rel=1e-4)


def test_collapsed_dimensions_are_named() -> None:
    module = objective(latent=4).eval()
    with torch.no_grad():  # rows of the layer: four means, then four log variances
        for dimension in (1, 3):
            for row in (dimension, dimension + 4):
                module.posterior.linear.weight[row] = 0
                module.posterior.linear.bias[row] = 0
        facts = module.facts(batch()["images"])
        _, metrics = module("variational", batch(), draws(0))
    assert facts["collapsed_dimensions"] == [1, 3]
    assert metrics["active_dimensions"] == 2


def test_traversals_move_one_dimension_at_a_time() -> None:
    code = torch.tensor([0.1, 0.2, 0.3])
    moved = traversals(code, torch.tensor([2, 0])).view(2, 8, 3)
    assert torch.equal(moved[0, :, :2], code[:2].expand(8, 2))
    assert torch.equal(moved[1, :, 1:], code[1:].expand(8, 2))
    assert moved[0, :, 2].tolist() == pytest.approx(np.linspace(-2.5, 2.5, 8).tolist())


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "discretized"])
def test_the_bound_rises_in_training(kind: str) -> None:
    module = objective(likelihood={"kind": kind}, warmup=0.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    bounds = []
    for step in range(60):
        optimizer.zero_grad()
        loss, metrics = module("variational", batch(), draws(step))
        loss.backward()
        optimizer.step()
        bounds.append(metrics["elbo"].item())
    assert bounds[-1] > bounds[0] + 3


# ---------------------------------------------------------------- a run


@pytest.mark.slow
def test_a_run_resumes_exactly_and_shows_what_it_has_learned(
    run_pretrain: Command, tmp_path: Path
) -> None:
    options = [
        "objective.kind=variational", "objective.latent=6", "data.held_out=0.1", "probe.every=6",
        "optimizer.lr=3e-3",
    ]  # fmt: skip
    done = run_pretrain(*options)
    assert "collapsed_dimensions: [" in done.stdout
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run)
    (run / "checkpoints/LATEST").write_text("step-00000008\n")
    run_pretrain(*options, "--resume")
    after = weights(run)
    assert all(torch.equal(after[name], value) for name, value in uninterrupted.items())
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    bound = last["held_out/log_likelihood"] - last["held_out/kl"]
    assert last["held_out/elbo"] == pytest.approx(bound, rel=1e-5)
    parts = [last[f"held_out/kl/{number:03}"] for number in range(6)]
    assert sum(parts) == pytest.approx(last["held_out/kl"], rel=1e-5)
    assert last["beta"] == 1 and 0 <= last["active_dimensions"] <= 6
    pictures = {path.name.split("-")[0] for path in (run / "previews").iterdir()}
    assert pictures == {"reconstructions", "samples", "traversals", "filters"}
    encoder = load_encoder(run / "encoder.safetensors")
    assert encoder.stage_names == ["stage1", "stage2"]
    assert "collapsed_dimensions" in read_artifact(run / "encoder.safetensors").metrics
