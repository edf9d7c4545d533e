"""What an autoencoder can add to its loss, against definitions, explicit Jacobians and formulas."""

import math

import pytest
import torch
from torch import Tensor, nn

from data.augment import AugmentConfig
from models.decoders import MirrorDecoderConfig, build_decoder
from models.encoders import ConvEncoderConfig, DenseEncoderConfig, InputContract, build_encoder
from pretrain.agreement import RedundancyReduction, VarianceCovariance, disagreement_of
from pretrain.autoencoder import Autoencoder, AutoencoderConfig
from pretrain.contraction import closed_form_norm, estimated_norm
from pretrain.reconstruction import restoration_error
from pretrain.sparsity import KLSparsity, KSparsity, L1Sparsity, WinnerTakeAll, sparsify
from training.errors import InputError
from training.optimizers import AdamWConfig
from training.randomness import StepDraws
from training.stage_rates import StageRatesConfig

CONTRACT = InputContract(channels=1, height=6, width=6, mean=(0.4,), std=(0.3,))


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def objective(encoder: dict, **values: object) -> Autoencoder:
    kinds = {"dense": DenseEncoderConfig, "conv": ConvEncoderConfig}
    built = build_encoder(kinds[encoder["kind"]](**encoder), CONTRACT, seed=0)
    decoder = build_decoder(MirrorDecoderConfig(), built, seed=1)
    config = AutoencoderConfig.model_validate(values)
    module = Autoencoder(config, built, decoder, AdamWConfig(), StageRatesConfig())
    module.bind_phases()
    return module


def loss(module: Autoencoder, count: int = 8) -> tuple[Tensor, dict[str, Tensor]]:
    batch = {"images": (images(count) * 255).to(torch.uint8)}
    return module("autoencoder", batch, StepDraws(0, 3, torch.device("cpu"), count, 0, count))


# ---------------------------------------------------------------- contraction


def explicit_norms(encode: nn.Module, inputs: Tensor) -> Tensor:
    """Squared Frobenius norm of each sample's Jacobian, entry by entry."""
    norms = []
    for image in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda x: encode(x[None])[0], image)
        norms.append(jacobian.square().sum())
    return torch.stack(norms)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_the_closed_form_is_the_jacobians_norm(activation: str) -> None:
    config = DenseEncoderConfig(widths=(7,), activation=activation, norm="none")
    encoder = build_encoder(config, CONTRACT, seed=0)
    found = closed_form_norm(encoder, encoder(images()))
    torch.testing.assert_close(found, explicit_norms(encoder, images()))


@pytest.mark.parametrize(
    "config",
    [
        DenseEncoderConfig(widths=(9, 7), activation="tanh", norm="layer"),
        ConvEncoderConfig(widths=(4, 6), activation="gelu", norm="group"),
    ],
    ids=lambda config: config.kind,
)
def test_the_estimate_is_unbiased(config: DenseEncoderConfig | ConvEncoderConfig) -> None:
    encoder = build_encoder(config, CONTRACT, seed=0)
    shape = encoder.output_shapes[encoder.stage_names[-1]]
    vectors = randn(3000, 5, *shape)
    code, found, _ = estimated_norm(encoder, images(), vectors)
    torch.testing.assert_close(code, encoder(images()))
    torch.testing.assert_close(found, explicit_norms(encoder, images()), rtol=0.1, atol=0.0)


def test_the_penalty_contracts_and_its_gradient_is_that_of_differences() -> None:
    module = objective(
        {"kind": "dense", "widths": (8,), "activation": "tanh", "norm": "none"},
        corruption={"kind": "none"},
        contraction={"kind": "estimate", "weight": 0.1, "samples": 2, "higher_order": 0.5},
    ).double()
    weight = module.encoder.blocks["layer1"][1].weight
    value, metrics = loss_in_double(module)
    assert metrics.keys() == {"jacobian_norm", "jacobian_change", "error"}
    (gradient,) = torch.autograd.grad(value, weight)
    direction = randn(*weight.shape).double()
    step = 1e-6
    with torch.no_grad():
        weight.add_(step * direction)
    above = loss_in_double(module)[0]
    with torch.no_grad():
        weight.sub_(2 * step * direction)
    below = loss_in_double(module)[0]
    expected = (above - below) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=1e-5)


def loss_in_double(module: Autoencoder) -> tuple[Tensor, dict[str, Tensor]]:
    draws = StepDraws(0, 3, torch.device("cpu"), 5, 0, 5)
    code, added, metrics = module._encode(images().double(), draws)
    output = module.decoder(code)
    error = restoration_error(module.config, output, images().double(), None)
    return error + added, {**metrics, "error": error}


# ---------------------------------------------------------------- sparsity


def test_penalties_on_the_code() -> None:
    code = torch.rand(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    same, term = sparsify(L1Sparsity(weight=0.5), code)
    assert same is code and term is not None
    assert term.item() == pytest.approx(0.5 * code.abs().mean().item())
    _, term = sparsify(KLSparsity(weight=2.0, target=0.1), code)
    expected = 0.0
    for unit in range(4):
        rate = code[:, unit].mean().item()
        expected += 0.1 * math.log(0.1 / rate) + 0.9 * math.log(0.9 / (1 - rate))
    assert term is not None and term.item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 20), (6, 20, 3, 3)])
def test_k_sparse_keeps_the_largest_units(shape: tuple[int, ...]) -> None:
    code = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    kept, term = sparsify(KSparsity(share=0.25), code)
    assert term is None
    assert torch.all((kept != 0).sum(1) == 5)
    assert torch.equal(kept.sum(1), code.topk(5, dim=1).values.sum(1)) or torch.allclose(
        kept.sum(1), code.topk(5, dim=1).values.sum(1)
    )


def test_the_winner_takes_all_in_space_and_over_the_batch() -> None:
    code = torch.rand(10, 4, 5, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    kept, _ = sparsify(WinnerTakeAll(lifetime=0.3), code)
    for unit in range(4):
        peaks = code[:, unit].flatten(1).max(1).values
        winners = set(peaks.topk(3).indices.tolist())
        for row in range(10):
            values = kept[row, unit][kept[row, unit] != 0]
            assert values.tolist() == ([peaks[row].item()] if row in winners else [])


# ---------------------------------------------------------------- agreement


def test_terms_of_agreement_are_their_papers_formulas() -> None:
    a, b = randn(32, 6), randn(32, 6) * 0.5 + randn(32, 6)
    correlation = torch.corrcoef(torch.cat([a.T, b.T]))[:6, 6:]
    off = correlation.square().sum() - correlation.diagonal().square().sum()
    expected = (1 - correlation.diagonal()).square().sum() + 0.1 * off
    found = disagreement_of(RedundancyReduction(weight=2.0, off_diagonal=0.1), a, b)
    assert found.item() == pytest.approx(2 * expected.item(), rel=1e-3)

    config = VarianceCovariance(weight=1.0, invariance=3.0, variance=5.0, covariance=7.0)
    expected = 3 * (a - b).square().mean()
    for z in (a, b):
        expected = expected + 5 * (1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean()
        covariance = torch.cov(z.T)
        expected = expected + 7 * (covariance - covariance.diag().diag()).square().sum() / 6
    assert disagreement_of(config, a, b).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    "config", [RedundancyReduction(weight=1.0), VarianceCovariance(weight=1.0)]
)
def test_terms_of_agreement_are_exact_in_mixed_precision(
    config: RedundancyReduction | VarianceCovariance,
) -> None:
    a, b = (20 * randn(256, 32) for _ in range(2))
    exact = disagreement_of(config, a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(disagreement_of(config, a, b), exact)


def test_agreement_lets_the_codes_of_two_views_meet() -> None:
    module = objective(
        {"kind": "conv", "widths": (8, 8)},
        agreement={"kind": "redundancy", "weight": 1.0, "augment": AugmentConfig(shift=0.1)},
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value, metrics = loss(module, 32)
        value.backward()
        optimizer.step()
        values.append(metrics["disagreement"].item())
    assert values[-1] < 0.3 * values[0]


# ---------------------------------------------------------------- emphasis and refusals


def test_emphasis_weighs_corrupted_pixels() -> None:
    corruption = {"kind": "masking", "share": 0.5}
    errors = []
    for corrupted, others in ((1.0, 1.0), (2.0, 0.0), (0.0, 2.0)):
        module = objective(
            {"kind": "conv", "widths": (4,)},
            corruption=corruption,
            emphasis={"corrupted": corrupted, "others": others},
        )
        errors.append(loss(module)[0].item())
    assert errors[0] == pytest.approx((errors[1] + errors[2]) / 2, rel=1e-5)
    assert errors[1] != pytest.approx(errors[2], rel=1e-3)


CONV, DENSE = {"kind": "conv", "widths": (4,)}, {"kind": "dense", "widths": (4,)}


@pytest.mark.parametrize(
    ("encoder", "values", "complaint"),
    [
        (CONV, {"sparsity": {"kind": "kl"}}, "'kl' with encoder.activation 'relu'"),
        (CONV, {"contraction": {"kind": "closed_form"}}, "a dense encoder of one layer"),
        (DENSE, {"contraction": {"kind": "closed_form"}}, "encoder.activation sigmoid or tanh"),
        (CONV, {"contraction": {"kind": "estimate"}}, "with encoder.norm 'batch'"),
        (CONV, {"emphasis": {"corrupted": 2}}, "corruption.kind 'augment', which chooses no"),
        (CONV, {"emphasis": {"corrupted": 0, "others": 0}}, "found 0 for all pixels"),
        (CONV, {"sparsity": {"kind": "k_sparse", "share": 0.1}}, "0.1 of a code of 4 units"),
    ],
)
def test_terms_that_contradict_the_rest_are_refused(
    encoder: dict, values: dict, complaint: str
) -> None:
    with pytest.raises(InputError) as error:
        objective(encoder, **values)
    assert complaint in str(error.value) and "\n" not in str(error.value)
