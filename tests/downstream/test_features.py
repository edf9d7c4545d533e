"""Features against plain torch: pooling, averaged views, principal directions."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from downstream.features import FeaturesConfig, extract, feature_count, images_at_once
from downstream.projection import fit_projection
from models.artifact import load_encoder
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from models.heads import pool_to_grid
from training.errors import InputError


def cells(features: torch.Tensor, grid: int) -> list[torch.Tensor]:
    """The values [B, C, positions] of each cell of a grid x grid raster."""
    height, width = features.shape[2:]
    return [
        features[
            :,
            :,
            row * height // grid : -(-(row + 1) * height // grid),
            column * width // grid : -(-(column + 1) * width // grid),
        ].flatten(2)
        for row in range(grid)
        for column in range(grid)
    ]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Digits of 16 x 16 pixels, uint8 [40, 1, 16, 16]."""
    pixels = np.kron(load_digits().images[:40], np.ones((1, 2, 2))) * (255 / 16)
    return torch.from_numpy(pixels.astype(np.uint8))[:, None]


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(14, 14, 4), (7, 5, 2), (9, 6, 1), (4, 4, 4)]
)
def test_each_cell_is_pooled_as_asked(height, width, grid):
    features = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    parts = cells(features.double(), grid)
    largest = torch.stack([part.amax(2) for part in parts], dim=2).flatten(1)
    torch.testing.assert_close(pool_to_grid(features, grid, "max"), largest.float())
    for exponent in (1.0, 3.0, 7.5):
        means = [part.clamp_min(0).pow(exponent).mean(2).pow(1 / exponent) for part in parts]
        for scale in (1.0, 1e-3, 1e20):  # whose powers float32 could not hold
            torch.testing.assert_close(
                pool_to_grid(features * scale, grid, "generalized_mean", exponent=exponent),
                (torch.stack(means, dim=2).flatten(1) * scale).float(),
            )


def test_generalized_means_of_maps_without_positive_values_are_zero():
    pooled = pool_to_grid(-torch.rand(2, 3, 4, 4), 2, "generalized_mean")
    assert torch.equal(pooled, torch.zeros(2, 12))
    flat = torch.randn(2, 7)
    assert pool_to_grid(flat, 4, "generalized_mean") is flat


def test_every_stage_is_pooled_by_the_config(encoders, images):
    encoder = load_encoder(encoders[0])
    stages = encoder.stages(images.float() / 255).values()
    config = FeaturesConfig(grid=1, pooling="max")
    tops = torch.cat([stage.amax((2, 3)) for stage in stages], dim=1)
    assert torch.equal(extract(encoder, images, config), tops)
    near = extract(encoder, images, FeaturesConfig(grid=1, pooling="generalized_mean", exponent=20))
    assert (near <= tops.clamp_min(0) + 1e-6).all() and not torch.allclose(near, tops)
    assert feature_count(encoder.output_shapes, config) == tops.shape[1]


def test_averaged_views_are_the_same_changes_of_every_image(encoders, images):
    encoder = load_encoder(encoders[0])
    plain = extract(encoder, images, FeaturesConfig(grid=2))
    mirrored = extract(encoder, images.flip(3), FeaturesConfig(grid=2))
    # Views that are mirrored or not, and nothing else: how often is the same for all images.
    flips = FeaturesConfig(grid=2, views=9, augment={"horizontal_flip": True, "shift": 0})
    found = extract(encoder, images, flips)
    times = [
        times
        for times in range(11)
        if torch.allclose(found, (times * mirrored + (10 - times) * plain) / 10, atol=1e-5)
    ]
    assert len(times) == 1 and 0 < times[0] < 10

    shifts = FeaturesConfig(grid=2, views=3, flip_average=True)
    together = extract(encoder, images, shifts)
    alone = torch.cat([extract(encoder, part, shifts) for part in images.split(7)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, (plain + mirrored) / 2, atol=1e-2)


def test_whitened_rows_have_the_identity_as_their_covariance():
    rows = torch.from_numpy(load_digits().data).float() * 3 + 50
    rows = torch.cat([rows, rows[:, :10] * 2], dim=1)  # some directions do not vary
    projection = fit_projection(rows.split(100), "whiten", components=None)
    white = projection.apply(rows).double()
    rank = torch.linalg.matrix_rank(rows.double() - rows.double().mean(0)).item()
    assert white.shape[1] == rank < 64
    assert torch.allclose(white.mean(0), torch.zeros(rank).double(), atol=1e-4)
    covariance = white.T @ white / len(white)
    assert torch.allclose(covariance, torch.eye(rank).double(), atol=1e-3)
    at_once = fit_projection([rows], "whiten", components=None)
    assert torch.allclose(at_once.apply(rows), white.float(), atol=1e-3)


def test_principal_directions_are_scikit_learns():
    rows = torch.from_numpy(load_digits().data).float()
    projection = fit_projection(rows.split(500), "pca", components=12)
    theirs = PCA(12, svd_solver="full").fit(rows.double().numpy())
    ours = projection.directions.T.numpy()
    signs = np.sign((ours * theirs.components_).sum(axis=1, keepdims=True))
    assert np.allclose(ours, theirs.components_ * signs, atol=1e-4)
    expected = theirs.transform(rows.double().numpy()) * signs.T
    assert np.allclose(projection.apply(rows).numpy(), expected, atol=1e-2)
    # The sign is fixed, so that the same images give the same features.
    assert (ours[range(12), np.abs(ours).argmax(axis=1)] > 0).all()


def test_a_projection_of_rows_that_do_not_vary_is_refused():
    with pytest.raises(InputError, match=r"features.transform: found whiten"):
        fit_projection([torch.ones(20, 5)], "whiten", components=None)


def test_components_need_a_transform():
    with pytest.raises(ValueError, match="components 5 with transform none"):
        FeaturesConfig(components=5)


def test_fewer_large_images_are_encoded_at_once():
    small = InputContract(channels=1, height=28, width=28, mean=(0.5,), std=(0.5,))
    large = small.model_copy(update={"height": 512, "width": 512})
    config = ConvEncoderConfig(widths=(32, 64))
    counts = [images_at_once(build_encoder(config, inputs, seed=0)) for inputs in (small, large)]
    assert counts[0] == 500 and 1 <= counts[1] < 100
