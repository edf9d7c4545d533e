"""RBMs as objectives: contrastive divergence by autograd, persistent chains, ranks, real runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.artifact import load_encoder, read_artifact
from models.conv_rbm import ConvRbmEncoderConfig
from models.encoders import (
    ConvEncoderConfig,
    DenseEncoderConfig,
    Encoder,
    InputContract,
    build_encoder,
)
from models.initialization import Normal
from models.partition import exact_log_partition
from models.rbm import DenseRbm
from pretrain.build import build_objective
from pretrain.config import PretrainConfig
from pretrain.held_out import split_rows
from pretrain.layer_rbm import RbmConfig, RbmLayer
from pretrain.rbm import Rbm
from tests.pretrain.conftest import Command
from tests.pretrain.test_command_line import weights
from tests.processes import run_on_ranks
from training.checkpoints import load_checkpoint
from training.config import load_config
from training.errors import InputError
from training.optimizers import AdamWConfig
from training.randomness import StepDraws, derive_seed
from training.stage_rates import StageRatesConfig

PLAIN = InputContract(channels=1, height=6, width=6, mean=(0.0,), std=(1.0,))
NORMALIZED = PLAIN.model_copy(update={"mean": (0.4,), "std": (0.3,)})
DENSE = DenseEncoderConfig(
    widths=(5,), activation="sigmoid", norm="none", initializer=Normal(std=0.3)
)
CONV = ConvRbmEncoderConfig(widths=(3,), kernel_size=3, initializer=Normal(std=0.3))


def objective(spec: Any = DENSE, contract: InputContract = PLAIN, **values: object) -> Rbm:
    encoder = build_encoder(spec, contract, seed=0)
    config = RbmConfig.model_validate(values)
    module = Rbm(config, encoder, AdamWConfig(), StageRatesConfig(), seed=0, images=images() / 255)
    module.bind_phases()
    return module


def images(count: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 6, 6), dtype=torch.uint8, generator=generator)


def draws(step: int, start: int = 0, stop: int = 16) -> StepDraws:
    return StepDraws(0, step, torch.device("cpu"), 16, start, stop)


def loss_of(module: Rbm, step: int = 0) -> Tensor:
    return module("rbm", {"images": images()}, draws(step))[0]


def first_layer(encoder: Encoder) -> Any:
    return next(m for m in encoder.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_the_gradient_of_a_dense_rbm_is_that_of_contrastive_divergence(kind: str) -> None:
    module = objective(DENSE, PLAIN if kind == "bernoulli" else NORMALIZED, visible=kind)
    layer, bias = first_layer(module.encoder), module.layer.visible_bias
    loss_of(module).backward()

    with torch.no_grad():
        data = images().flatten(1) / 255
        if kind == "gaussian":
            data = (data - 0.4) / 0.3
        given_data = torch.sigmoid(data @ layer.weight.T + layer.bias)
        hidden = (draws(0).rand("rbm/last", 5) < given_data).float()
        model = hidden @ layer.weight + bias
        if kind == "bernoulli":
            model = model.sigmoid()
        given_model = torch.sigmoid(model @ layer.weight.T + layer.bias)
        # What CD-1 adds to the parameters, times a rate, is minus the gradient.
        by_weight = (given_data.T @ data - given_model.T @ model) / 16
        by_hidden = (given_data - given_model).mean(0)
        by_visible = (data - model).mean(0)
    torch.testing.assert_close(layer.weight.grad, -by_weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.bias.grad, -by_hidden, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias.grad, -by_visible, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_convolutional_rbm_is_that_of_contrastive_divergence() -> None:
    module = objective(CONV)
    layer, bias = first_layer(module.encoder), module.layer.visible_bias
    loss_of(module).backward()

    def moments(visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of hidden times visible by offset, of hidden, of visible."""
        hidden = machine.hidden_mean(machine.hidden_input(visible))
        seen = F.unfold(visible, 3, padding=1)  # [B, 9, 36]
        products = torch.einsum("bkp,bop->bko", hidden.flatten(2), seen).mean(0)
        return products.view(3, 1, 3, 3), hidden.sum((2, 3)).mean(0), visible.sum((2, 3)).mean(0)

    with torch.no_grad():
        machine = module.layer.machine(module.encoder)
        data = images() / 255
        hidden = machine.sample_hidden(machine.hidden_input(data), draws(0), "rbm/last")
        model = machine.visible_mean(hidden)
        wanted = [m - d for d, m in zip(moments(data), moments(model), strict=True)]
    for parameter, gradient in zip((layer.weight, layer.bias, bias), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_more_steps_start_where_fewer_end() -> None:
    module = objective(k=3)
    machine, data = module.layer.machine(module.encoder), images().flatten(1) / 255
    with torch.no_grad():
        before = machine.gibbs(data, 2, draws(0), "rbm")
        inputs = machine.hidden_input(before)
        model = machine.visible_mean(machine.sample_hidden(inputs, draws(0), "rbm/last"))
        wanted = machine.free_energy(data).mean() - machine.free_energy(model).mean()
    torch.testing.assert_close(loss_of(module), wanted)


def test_the_visible_bias_starts_at_the_mean_of_the_images() -> None:
    bias = objective().layer.visible_bias.detach()
    torch.testing.assert_close(bias.sigmoid(), (images() / 255).mean(0).flatten())
    bias = objective(CONV).layer.visible_bias.detach()
    torch.testing.assert_close(bias.sigmoid(), (images() / 255).mean((0, 2, 3)))


def test_the_sparsity_term_is_the_distance_of_mean_rates_from_their_target() -> None:
    plain, sparse = objective(), objective(sparsity={"target": 0.2, "weight": 3.0})
    rates = sparse.encoder(images() / 255).mean(0)
    added = 3 * (rates - 0.2).square().sum()
    torch.testing.assert_close(loss_of(sparse), loss_of(plain) + added)


@pytest.mark.parametrize("spec", [DENSE, CONV])
@pytest.mark.parametrize("chains", [16, 6])
def test_micro_batches_move_the_chains_as_one_batch_does(spec: Any, chains: int) -> None:
    whole, parts = objective(spec, persistent=chains), objective(spec, persistent=chains)
    started = whole.layer.chains.clone()
    for step in range(3):
        for module in (whole, parts):
            module.zero_grad()
        loss_of(whole, step).backward()
        for start in (0, 4, 8, 12):
            rows = {"images": images()[start : start + 4]}
            loss, _ = parts("rbm", rows, draws(step, start, start + 4))
            (loss / 4).backward()
        for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=3e-5)
        for module in (whole, parts):
            with torch.no_grad():
                module.after_step(step)
        # Sums in another order may turn a draw that lies at its probability.
        assert (parts.layer.chains != whole.layer.chains).float().mean() < 0.01
    assert not torch.equal(whole.layer.chains, started)


def test_measuring_leaves_the_chains_alone() -> None:
    module = objective(persistent=8)
    module.eval()
    loss_of(module)
    assert not module.layer.moved.any()


def test_training_makes_the_images_likely() -> None:
    module = objective(persistent=64)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    likelihoods = []
    for step in range(300):
        if step in (0, 299):
            machine = module.layer.machine(module.encoder)
            assert isinstance(machine, DenseRbm)
            free_energy = machine.free_energy(images().flatten(1) / 255).mean().item()
            likelihoods.append(-free_energy - exact_log_partition(machine).value)
        optimizer.zero_grad()
        loss_of(module, step).backward()
        optimizer.step()
        with torch.no_grad():
            module.after_step(step)
    assert likelihoods[1] > likelihoods[0] + 1


def test_the_unrolled_decoder_starts_as_the_rbm() -> None:
    for spec, shape in ((DENSE, (16, 5)), (CONV, (16, 3, 3, 3))):
        encoder = build_encoder(spec, PLAIN, seed=0)
        layer = RbmLayer(
            RbmConfig(), encoder.stage_names[0], encoder, key="objective", seed=0, unrolled=True
        )
        layer.start_unrolled(encoder)
        code = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        machine = layer.machine(encoder)
        hidden = code if spec is DENSE else F.interpolate(code, scale_factor=2) / 4
        wanted = machine.visible_input(hidden).view(16, 1, 6, 6)
        torch.testing.assert_close(layer.decode(encoder, code), wanted)


HIDDEN = (
    "encoder.kind=dense",
    "encoder.widths=[12]",
    "encoder.activation=sigmoid",
    "encoder.norm=none",
    "encoder.initializer={kind: normal, std: 0.01}",
)
RUN = ("objective.kind=rbm", *HIDDEN)
STACK = (*HIDDEN, "encoder.widths=[12, 6]", "objective.kind=stacked", "objective.layer.kind=rbm")


def test_a_belief_networks_upper_rbm_learns_the_probabilities_below(config: Path) -> None:
    settings = load_config(PretrainConfig, config, [*STACK, "data.size=6"])
    network = build_objective(settings, images())
    network.total_steps = 10
    network.bind_phases()
    network("layer2", {"images": images()}, draws(5))[0].backward()

    lower, upper = (first_layer(block) for block in network.encoder.blocks.values())
    assert lower.weight.grad is None
    with torch.no_grad():
        data = network.encoder(images() / 255, upto="layer1")
        given_data = torch.sigmoid(data @ upper.weight.T + upper.bias)
        own = replace(draws(5), seed=derive_seed(0, "layer2"))
        hidden = (own.rand("rbm/last", 6) < given_data).float()
        model = torch.sigmoid(hidden @ upper.weight)
        given_model = torch.sigmoid(model @ upper.weight.T + upper.bias)
        by_weight = (given_data.T @ data - given_model.T @ model) / 16
    torch.testing.assert_close(upper.weight.grad, -by_weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_stack_is_unrolled_to_a_deep_autoencoder(run_pretrain: Command, tmp_path: Path) -> None:
    options = [*STACK, "objective.whole.share=0.5", "steps=200", "optimizer.lr=0.01"]
    run_pretrain(*options, "log.every=5", "checkpoint.every=90")
    run = tmp_path / "runs/digits"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    first, *_, last = (line["whole/loss"] for line in lines if "whole/loss" in line)
    untrained = math.log(2)  # the cross-entropy of grey
    assert last < first < untrained
    assert "log_likelihood" not in str(read_artifact(run / "encoder.safetensors").metrics)
    pictures = {path.stem for path in (run / "previews").rglob("*.png")}
    for name in ("samples", "reconstructions", "layer1_reconstructions"):
        assert any(name in picture for picture in pictures), pictures


@pytest.mark.parametrize(
    ("spec", "contract", "complaint"),
    [
        (ConvEncoderConfig(widths=(8,)), PLAIN, r"encoder\.kind 'conv'; give dense, or conv_rbm"),
        (DENSE.model_copy(update={"widths": (8, 4)}), PLAIN, r"encoder\.widths .*kind stacked"),
        (
            DENSE.model_copy(update={"activation": "relu"}),
            PLAIN,
            r"encoder\.activation 'relu' .*activation sigmoid and norm none",
        ),
        (DENSE.model_copy(update={"norm": "batch"}), PLAIN, r"encoder\.norm 'batch'"),
        (DENSE.model_copy(update={"spectral_norm": True}), PLAIN, r"encoder\.spectral_norm"),
        (DENSE, NORMALIZED, r"objective\.visible: found 'bernoulli' .*outside of 0 to 1"),
    ],
)
def test_encoders_that_are_no_rbms_are_refused(
    spec: Any, contract: InputContract, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        objective(spec, contract)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_makes_its_images_likely_and_resumes_exactly(
    config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    options = [*RUN, "objective.persistent=32", "steps=300", "optimizer.lr=0.01"]
    options += ["data.held_out=0.1", "checkpoint.every=120", "log.every=20", "health.every=20"]
    done = run_pretrain(*options)
    run = tmp_path / "runs/digits"
    uninterrupted = weights(run), own_state(run)
    likely = read_artifact(run / "encoder.safetensors").metrics
    assert f"log_likelihood: {likely['log_likelihood']}" in done.stdout
    assert likely["log_partition_error"] == 0
    (run / "checkpoints/LATEST").write_text("step-00000240\n")
    run_pretrain(*options, "--resume")
    for before, after in zip(uninterrupted, (weights(run), own_state(run)), strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "free_energy_gap" in line)
    assert last["step"] == 300 and last["reconstruction_error"] > 0
    layer = first_layer(load_encoder(run / "encoder.safetensors"))
    bias = own_state(run)["layer.visible_bias"]
    machine = DenseRbm(layer.weight, layer.bias, bias, "bernoulli")
    settings = load_config(PretrainConfig, config, options)
    seen = settings.data.open(settings.data.shards).images
    free_energies = machine.free_energy(seen.flatten(1) / 255).detach().numpy()
    trained, kept_out = split_rows(len(seen), 0.1)
    spread = trained[np.linspace(0, len(trained) - 1, len(kept_out), dtype=int)]
    held_out = free_energies[kept_out].mean()
    assert last["held_out/free_energy"] == pytest.approx(held_out, rel=1e-4)
    gap = held_out - free_energies[spread].mean()
    assert last["free_energy_gap"] == pytest.approx(gap, rel=1e-2, abs=1e-2)
    assert {p.stem.split("-")[0] for p in (run / "previews").rglob("*.png")} >= {"samples"}

    fresh = build_objective(settings, seen)
    with torch.no_grad():
        unlikely = fresh.facts(seen)["log_likelihood"]
    assert likely["log_likelihood"] > unlikely + 5  # type: ignore[operator]

    encoder = load_encoder(run / "encoder.safetensors")
    pixels = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    features = torch.sigmoid(pixels.flatten(1) @ layer.weight.T + layer.bias)
    torch.testing.assert_close(encoder(pixels), features)


def own_state(run: Path) -> dict[str, Tensor]:
    """The visible bias and the chains of a run's last checkpoint."""
    name = (run / "checkpoints/LATEST").read_text().strip()
    state = load_checkpoint(run / "checkpoints" / name).state.model
    return {name: value for name, value in state.items() if name.startswith("layer.")}


@pytest.mark.slow
def test_two_ranks_move_the_same_chains(
    config: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    same = [*RUN, "objective.persistent=20", "objective.k=2", "compute.accumulation=2"]
    run_pretrain("name=one", *same[:-1])
    run_on_ranks(2, "pretrain", config, "name=two", *same, cwd=tmp_path)
    one, two = (own_state(tmp_path / "runs" / name) for name in ("one", "two"))
    assert {name.split(".")[-1] for name in one} == {"visible_bias", "chains"}
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_gaussian_convolutional_run_ends_with_an_encoder(
    run_pretrain: Command, tmp_path: Path
) -> None:
    run_pretrain(
        "objective={kind: rbm, visible: gaussian, sparsity: {target: 0.1}}",
        "encoder={kind: conv_rbm, widths: [6], kernel_size: 5, pool: 3}",
        "optimizer.lr=1e-3",
    )
    encoder = load_encoder(tmp_path / "runs/digits/encoder.safetensors")
    assert encoder.output_shapes == {"stage1": (6, 6, 6)}
    assert encoder.input.std[0] < 1


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (
            "encoder.activation=tanh",
            r"objective\.kind: found 'rbm' with encoder\.activation 'tanh'",
        ),
        ("decoder.upsampling=nearest", "decoder: found other values than its defaults"),
        ("compute.distribution=fsdp2", r"compute\.distribution: found 'fsdp2'"),
        ("objective.persistent=0", r"objective\.persistent: found 0"),
    ],
)
def test_contradicting_options_are_refused_in_a_line(
    config: Path, option: str, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        build_objective(load_config(PretrainConfig, config, [*RUN, option]), images())
    assert "\n" not in str(caught.value)
