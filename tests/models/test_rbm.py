"""Restricted Boltzmann machines against going through all states of tiny ones."""

import itertools
import math
import zlib
from dataclasses import dataclass

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from models.conv_rbm import ConvRbm, ConvRbmEncoderConfig, from_blocks, in_blocks
from models.decoders import MirrorDecoderConfig, build_decoder
from models.dropout import PlainDropout
from models.encoders import InputContract, build_encoder
from models.partition import can_enumerate, estimate_log_partition, exact_log_partition
from models.rbm import DenseRbm, VisibleKind


@dataclass(frozen=True)
class Numbers:
    """Random numbers for a number of rows, from a seed and a purpose."""

    rows: int
    seed: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{purpose}".encode()))

    def rand(self, purpose: str, *shape: int) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator(purpose))

    def randn(self, purpose: str, *shape: int) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator(purpose))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(
    visible: int, hidden: int, kind: VisibleKind = "bernoulli", *, scale: float = 1.0
) -> DenseRbm:
    weight = scale * randn(hidden, visible)
    return DenseRbm(weight, randn(hidden, seed=1), randn(visible, seed=2), kind)


def states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def energies(rbm: DenseRbm, visible: Tensor, hidden: Tensor) -> Tensor:
    """E(v, h) of all pairs, [rows of visible, rows of hidden]."""
    of_visible = -visible @ rbm.visible_bias
    if rbm.visible == "gaussian":
        of_visible = (visible - rbm.visible_bias).square().sum(1) / 2
    return of_visible[:, None] - hidden @ rbm.hidden_bias - visible @ rbm.weight.T @ hidden.T


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_free_energy_and_hidden_means_are_those_of_the_joint(kind: VisibleKind) -> None:
    rbm = dense(5, 4, kind)
    visible = randn(7, 5, seed=3) if kind == "gaussian" else states(5)
    log_joint = -energies(rbm, visible, states(4))
    torch.testing.assert_close(-rbm.free_energy(visible), log_joint.logsumexp(1))
    torch.testing.assert_close(
        rbm.hidden_mean(rbm.hidden_input(visible)), log_joint.softmax(1) @ states(4)
    )


def test_visible_means_are_those_of_the_joint() -> None:
    rbm = dense(5, 4)
    given_hidden = (-energies(rbm, states(5), states(4))).softmax(0)
    torch.testing.assert_close(rbm.visible_mean(states(4)), given_hidden.T @ states(5))


@pytest.mark.parametrize(("visible", "hidden"), [(6, 4), (4, 6)])
def test_the_exact_partition_is_the_sum_over_the_joint(visible: int, hidden: int) -> None:
    rbm = dense(visible, hidden)
    joint = -energies(rbm, states(visible), states(hidden))
    found = exact_log_partition(rbm)
    assert found.value == pytest.approx(joint.flatten().logsumexp(0).item())
    assert found.error == 0


def test_the_exact_partition_of_gaussian_units_is_an_integral() -> None:
    rbm = dense(2, 3, "gaussian")
    step = 0.05
    axis = torch.arange(-15, 15, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    integral = (-rbm.free_energy(grid)).logsumexp(0).item() + 2 * math.log(step)
    assert exact_log_partition(rbm).value == pytest.approx(integral, abs=1e-6)


def test_only_a_small_side_is_gone_through() -> None:
    assert can_enumerate(dense(30, 20)) and can_enumerate(dense(20, 30))
    assert can_enumerate(dense(30, 20, "gaussian"))
    assert not can_enumerate(dense(21, 21))
    assert not can_enumerate(dense(20, 30, "gaussian"))


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_annealed_importance_sampling_agrees_within_its_error(kind: VisibleKind) -> None:
    rbm = dense(12, 8, kind, scale=0.7)
    exact = exact_log_partition(rbm).value
    base = torch.zeros(12, dtype=torch.float64)
    for seed in range(3):
        found = estimate_log_partition(rbm, base, Numbers(200, seed), temperatures=300)
        assert 0 < found.error < 0.2
        assert abs(found.value - exact) < 4 * found.error


def test_the_error_of_an_estimate_is_its_spread() -> None:
    rbm, base = dense(12, 8, scale=1.5), torch.zeros(12, dtype=torch.float64)
    found = [
        estimate_log_partition(rbm, base, Numbers(100, seed), temperatures=20) for seed in range(60)
    ]
    spread = torch.tensor([estimate.value for estimate in found]).std().item()
    stated = sum(estimate.error for estimate in found) / len(found)
    assert 0.6 < stated / spread < 1.6


def test_gibbs_sampling_ends_in_the_models_distribution() -> None:
    rbm = dense(4, 3, scale=0.7)
    samples = rbm.gibbs(torch.zeros(20_000, 4, dtype=torch.float64), 40, Numbers(20_000), "chain")
    codes = (samples @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()
    found = codes.bincount(minlength=16) / len(codes)
    wanted = (-rbm.free_energy(states(4))).softmax(0)
    assert (found - wanted).abs().max() < 0.02
    assert wanted.max() > 0.1


def test_gaussian_units_are_drawn_around_their_means() -> None:
    rbm = dense(4, 3, "gaussian")
    hidden = states(3)[5].repeat(20_000, 1)
    drawn = rbm.sample_visible(hidden, Numbers(20_000), "visible")
    std, mean = torch.std_mean(drawn, dim=0)
    torch.testing.assert_close(mean, rbm.visible_mean(hidden)[0], rtol=0, atol=0.05)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=0.05)


# ---------------------------------------------------------------- convolutional


def convolutional(pool: int = 2, kind: VisibleKind = "bernoulli") -> ConvRbm:
    weight = 0.7 * randn(2, 1, 3, 3)
    return ConvRbm(weight, randn(2, seed=1), randn(1, seed=2), kind, pool)


def allowed_maps(height: int, width: int, pool: int) -> Tensor:
    """All maps [N, height, width] with at most one unit on in each block."""
    every = states(height * width).view(-1, height, width)
    counts = F.pad(every, (0, -width % pool, 0, -height % pool)).unflatten(2, (-1, pool))
    return every[(counts.unflatten(1, (-1, pool)).sum((2, 4)) <= 1).all(2).all(1)]


@pytest.mark.parametrize(("height", "width"), [(2, 4), (3, 3)])
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_a_convolutional_free_energy_sums_over_all_that_pooling_allows(
    height: int, width: int, kind: VisibleKind
) -> None:
    rbm = convolutional(kind=kind)
    maps = allowed_maps(height, width, 2)
    pairs = torch.stack([torch.stack(pair) for pair in itertools.product(maps, maps)])
    visible = randn(3, 1, height, width, seed=4)
    inputs = F.conv2d(visible, rbm.weight, rbm.hidden_bias, padding=1)
    of_visible = visible * rbm.visible_bias
    if kind == "gaussian":
        of_visible = -(visible - rbm.visible_bias).square() / 2
    log_joint = of_visible.sum((1, 2, 3))[:, None] + torch.einsum("bkhw,nkhw->bn", inputs, pairs)
    torch.testing.assert_close(-rbm.free_energy(visible), log_joint.logsumexp(1))
    means = torch.einsum("bn,nkhw->bkhw", log_joint.softmax(1), pairs)
    torch.testing.assert_close(rbm.hidden_mean(rbm.hidden_input(visible)), means)


def test_without_pooling_hidden_units_are_independent() -> None:
    rbm = convolutional(pool=1)
    visible = randn(3, 1, 4, 5)
    inputs = F.conv2d(visible, rbm.weight, rbm.hidden_bias, padding=1)
    torch.testing.assert_close(rbm.hidden_mean(rbm.hidden_input(visible)), inputs.sigmoid())


def test_probabilities_of_a_block_sum_to_that_of_its_pooled_unit() -> None:
    config = ConvRbmEncoderConfig(widths=(3, 4), kernel_size=3, pool=2)
    contract = InputContract(channels=1, height=7, width=6, mean=(0.0,), std=(1.0,))
    encoder = build_encoder(config, contract, seed=0)
    assert list(encoder.output_shapes.values()) == [(3, 4, 3), (4, 2, 2)]
    layer = next(encoder.blocks["stage1"].children())
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    rbm = ConvRbm(layer.weight, layer.bias, torch.zeros(1), "bernoulli", 2)
    images = torch.rand(5, 1, 7, 6, generator=torch.Generator().manual_seed(0))
    by_block = F.pad(rbm.hidden_mean(rbm.hidden_input(images)), (0, 0, 0, 1)).unflatten(3, (-1, 2))
    sums = by_block.unflatten(2, (-1, 2)).sum((3, 5))
    assert (sums <= 1 + 1e-6).all() and sums.max() > 0.9
    torch.testing.assert_close(encoder(images, upto="stage1"), sums)


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_pooled_probabilities_can_be_mirrored(pool: int) -> None:
    config = ConvRbmEncoderConfig(widths=(3, 4), kernel_size=3, pool=pool)
    contract = InputContract(channels=2, height=7, width=6, mean=(0.0,) * 2, std=(1.0,) * 2)
    encoder = build_encoder(config, contract, seed=0)
    images = torch.rand(5, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    decoder = build_decoder(MirrorDecoderConfig(), encoder, seed=0)
    assert decoder(encoder(images)).shape == images.shape


def test_probabilities_are_not_dropped() -> None:
    with pytest.raises(ValidationError, match="dropout, which probabilities do not allow"):
        ConvRbmEncoderConfig(dropout=PlainDropout(rate=0.1))


def test_blocks_are_drawn_with_their_probabilities() -> None:
    rbm = convolutional()
    visible = randn(1, 1, 3, 4, seed=5)
    inputs = rbm.hidden_input(visible)
    drawn = rbm.sample_hidden(inputs.repeat(20_000, 1, 1, 1), Numbers(20_000), "hidden")
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert in_blocks(drawn, 2).nan_to_num(neginf=0).sum(2).max() == 1
    torch.testing.assert_close(drawn.mean(0), rbm.hidden_mean(inputs)[0], rtol=0, atol=0.02)


def test_hidden_and_visible_inputs_are_of_one_energy() -> None:
    rbm = convolutional()
    visible, hidden = randn(3, 1, 5, 4), randn(3, 2, 5, 4, seed=6)
    forth = (rbm.hidden_input(visible) - rbm.hidden_bias.view(-1, 1, 1)) * hidden
    back = (rbm.visible_input(hidden) - rbm.visible_bias.view(-1, 1, 1)) * visible
    torch.testing.assert_close(forth.sum((1, 2, 3)), back.sum((1, 2, 3)))


def test_blocks_come_back_as_they_were() -> None:
    maps = randn(2, 3, 5, 7)
    assert torch.equal(from_blocks(in_blocks(maps, 3), 5, 7), maps)
