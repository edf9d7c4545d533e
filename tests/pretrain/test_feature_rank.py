"""The effective rank of features: known values, and encoders whose features have collapsed."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from pretrain.feature_rank import RankMeasure, effective_rank


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def uncorrelated(rows: int, features: int) -> Tensor:
    columns = normal(rows, features)
    return torch.linalg.qr(columns - columns.mean(0)).Q


@pytest.mark.parametrize("features", [1, 2, 7])
def test_the_rank_is_the_number_of_features_that_do_not_depend_on_each_other(features: int) -> None:
    rows = uncorrelated(50, features)
    assert effective_rank(rows) == pytest.approx(features)
    # Neither scale nor offset of a feature counts, nor do features that are constant.
    scales = torch.logspace(-1, 2, features, dtype=rows.dtype)
    assert effective_rank(rows * scales + 3) == pytest.approx(features)
    constant = torch.full((50, 5), 2.0, dtype=rows.dtype)
    assert effective_rank(torch.cat([rows, constant], 1)) == pytest.approx(features)


def test_copies_of_a_feature_are_one_direction() -> None:
    assert effective_rank(uncorrelated(50, 1).expand(-1, 9)) == pytest.approx(1)


def test_the_rank_is_that_of_the_entropy_of_the_eigenvalues() -> None:
    rows = normal(60, 5) @ normal(5, 5)
    shares = torch.linalg.eigvalsh(torch.corrcoef(rows.T)) / 5
    assert effective_rank(rows) == pytest.approx(math.exp(-(shares * shares.log()).sum()))


def test_rounding_is_no_direction() -> None:
    assert effective_rank(1 + 1e-7 * normal(50, 6)) == 0
    assert effective_rank(torch.zeros(50, 6)) == 0
    assert math.isnan(effective_rank(torch.full((50, 6), math.nan)))


CONTRACT = InputContract(channels=1, height=8, width=8, mean=(0.3,), std=(0.37,))
IMAGES = torch.from_numpy(load_digits().images * (255 / 16)).to(torch.uint8)[:900, None]


@pytest.mark.parametrize("config", [ConvEncoderConfig(widths=(8, 16)), ConvEncoderConfig()])
def test_any_fresh_weights_have_a_relative_rank_near_one(config: ConvEncoderConfig) -> None:
    encoder, other = (build_encoder(config, CONTRACT, seed=seed).eval() for seed in (5, 6))
    found = RankMeasure(other, IMAGES).measure(encoder)
    assert found.relative_rank == pytest.approx(1, abs=0.2)
    assert found.effective_rank > 2
