"""Measures of generated images: what they say of real digits and of worse and fewer ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from models.artifact import save_encoder
from models.encoders import ConvEncoderConfig, EncoderConfig, InputContract, build_encoder
from models.external import ExternalEncoderConfig
from pretrain.reference import reference_encoder, reference_features
from pretrain.sample_quality import (
    Clusters,
    QualityMeasure,
    SampleQuality,
    diversity,
    frechet_distance,
    k_means,
    kernel_distance,
    relative_frechet,
)
from training.errors import InputError

CONTRACT = InputContract(channels=1, height=8, width=8, mean=(0.3,), std=(0.37,))
_DIGITS = load_digits()
_ORDER = np.random.default_rng(0).permutation(len(_DIGITS.target))
IMAGES = torch.from_numpy((_DIGITS.images * 255 / 16).astype(np.uint8)[_ORDER, None])
LABELS = torch.from_numpy(_DIGITS.target[_ORDER])
REAL, OTHERS = IMAGES[:900], IMAGES[900:]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features(images: Tensor) -> Tensor:
    return reference_features(reference_encoder(None, CONTRACT), images)


@pytest.fixture(scope="module")
def measure() -> QualityMeasure:
    """Against 900 digits, on random features."""
    return QualityMeasure(reference_encoder(None, CONTRACT), REAL)


# ---------------------------------------------------------------- distances of features


def test_the_frechet_distance_is_that_of_scipys_matrix_root() -> None:
    a = normal(60, 7) @ normal(7, 7, seed=1)
    b = normal(90, 7, seed=2) @ normal(7, 7, seed=3) + 0.5
    covariances = [np.cov(rows.numpy().T) for rows in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = (a.mean(0) - b.mean(0)).square().sum().item()
    expected = apart + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [50, 5])
def test_the_frechet_distance_of_scaled_and_shifted_rows_has_a_closed_form(rows: int) -> None:
    """Of S and k^2 S it is (1 - k)^2 tr S, also with fewer rows than features."""
    a = normal(rows, 12)
    spread = a.var(0).sum().item()
    assert frechet_distance(a, 3 * a) == pytest.approx(
        4 * spread + 4 * a.mean(0).square().sum().item()
    )
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 12)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-10)
    # On lines that meet at a right angle nothing is shared.
    lines = torch.eye(12, dtype=torch.float64)[:2, None] * normal(rows, 1)
    assert frechet_distance(lines[0], lines[1]) == pytest.approx(
        2 * lines[0].var(0).sum().item() + 2 * lines[0].mean(0).square().sum().item()
    )


def test_copies_of_the_mean_are_one_relative_frechet_distance_away() -> None:
    real = features(REAL)
    copies = real.mean(0).expand(40, -1)
    assert relative_frechet(copies, real) == pytest.approx(1, rel=1e-9)
    assert relative_frechet(real, real) == pytest.approx(0, abs=1e-10)
    assert relative_frechet(1e3 * copies, 1e3 * real) == pytest.approx(1, rel=1e-9)


def test_the_kernel_distance_has_no_bias() -> None:
    """Over the halves of many splits its mean is 0, where the biased estimate's is not."""
    rows = features(IMAGES)
    found = []
    for seed in range(200):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        a, b = rows[order[:60]], rows[order[60:120]]
        found.append(kernel_distance(a, b))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error and min(found) < 0
    diagonal = (rows.square().mean(1) + 1).pow(3).mean().item() / 60
    assert 3 * error < diagonal / 5


def test_the_kernel_distance_is_a_mean_over_pairs_and_grows_with_a_shift() -> None:
    a, b = normal(1100, 3), normal(40, 3, seed=1)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    few = a[:30]
    within = [
        np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])
        for rows in (few, b)
    ]
    between = np.mean([kernel(x, y) for x in few for y in b])
    assert kernel_distance(few, b) == pytest.approx(sum(within) - 2 * between)
    # More rows than are compared at once.
    shifted = [kernel_distance(a, normal(1100, 3, seed=1) + by) for by in (0.0, 0.3, 1.0)]
    assert abs(shifted[0]) < 0.05 < shifted[1] < shifted[2]


def test_diversity_is_the_mean_distance_relative_to_that_of_real_rows() -> None:
    real, samples = normal(1100, 5), normal(30, 5, seed=1) @ normal(5, 5, seed=2)
    expected = torch.pdist(samples).mean() / torch.pdist(real).mean()
    assert diversity(samples, real) == pytest.approx(expected.item())
    assert diversity(0.5 * real + 7, real) == pytest.approx(0.5)
    assert diversity(real[:1].expand(20, -1), real) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------- clusters


def groups(counts: list[int], seed: int = 0) -> Tensor:
    """Rows [sum of counts, 2] around points far apart on a line."""
    points = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return normal(len(points), 2, seed=seed) + 100 * points[:, None]


def test_k_means_finds_groups_and_is_as_good_as_scikit_learn() -> None:
    centres = k_means(groups([40] * 6), 6, torch.Generator().manual_seed(0))
    expected = groups([40] * 6).view(6, 40, 2).mean(1)
    torch.testing.assert_close(centres[centres[:, 0].argsort()], expected)

    rows = features(REAL)
    ours = k_means(rows, 30, torch.Generator().manual_seed(0))
    error = torch.cdist(rows, ours).amin(1).square().sum().item()
    theirs = KMeans(30, n_init=1, random_state=0).fit(rows.numpy()).inertia_
    assert error < 1.03 * theirs


def test_k_means_has_no_more_centres_than_there_are_different_rows() -> None:
    rows = groups([1, 1, 1]).repeat(10, 1)
    centres = k_means(rows, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(centres.sort(0).values, groups([1, 1, 1]).sort(0).values)
    assert Clusters(rows[:1].expand(80, -1)).coverage(rows[:1].expand(9, -1)) == 1


def test_coverage_is_the_share_of_groups_that_samples_reach() -> None:
    """K-means may split one group more finely than another: so over all of them."""
    clusters = Clusters(groups([60] * 10))
    assert len(clusters.centres) == 30
    alone = [clusters.coverage(groups([200], seed=1) + 100 * group) for group in range(10)]
    assert max(alone) < 0.2 and sum(alone) == pytest.approx(1, abs=0.1)
    assert clusters.coverage(groups([20] * 10, seed=1)) == pytest.approx(1, abs=0.05)
    assert clusters.coverage(groups([40] * 5, seed=1)) == pytest.approx(0.5, abs=0.15)


def test_a_few_stray_samples_do_not_cover_a_group() -> None:
    clusters = Clusters(groups([10, 10]))  # few enough for one cluster
    assert len(clusters.centres) == 1 and clusters.coverage(groups([50, 0])) == 1
    real = groups([200, 200])
    strays = torch.cat([groups([200, 0], seed=1), groups([0, 5], seed=2)])
    both = torch.cat([groups([200, 0], seed=1), groups([0, 190], seed=2)])
    assert Clusters(real).coverage(strays) < 0.6
    assert Clusters(real).coverage(both) > 0.9


@pytest.mark.parametrize("count", [30, 100, 897])
def test_other_real_images_cover_all_however_few_they_are(count: int) -> None:
    clusters = Clusters(features(REAL))
    found = [clusters.coverage(features(part)) for part in OTHERS.split(count) if len(part) > 20]
    assert np.mean(found) == pytest.approx(1, abs=0.07)


# ---------------------------------------------------------------- the encoder


def test_the_default_encoder_is_the_same_in_every_run_and_frozen() -> None:
    torch.manual_seed(1)
    one = reference_encoder(None, CONTRACT)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = reference_encoder(None, CONTRACT)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(reference_features(one, REAL), reference_features(other, REAL))
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_features_depend_on_the_image_alone(tmp_path: Path) -> None:
    """Not on how it is stored, nor on its neighbours, nor on training mode."""
    encoder = reference_encoder(None, CONTRACT)
    expected = reference_features(encoder, REAL)
    assert expected.shape == (900, 32 + 64 + 128) and expected.dtype == torch.float64
    stored = REAL.float() / 255
    assert torch.equal(reference_features(encoder, stored), expected)
    assert torch.equal(stored, REAL.float() / 255)
    alone = torch.cat([reference_features(encoder, image[None]) for image in REAL[:20]])
    torch.testing.assert_close(alone, expected[:20], rtol=1e-5, atol=1e-6)
    path = saved(tmp_path, ConvEncoderConfig(widths=(4, 8)))  # with batch norm
    trained = reference_encoder(str(path), CONTRACT)
    trained.train()
    alone = torch.cat([reference_features(trained, image[None]) for image in REAL[:20]])
    torch.testing.assert_close(alone, reference_features(trained, REAL[:20]), rtol=1e-5, atol=1e-6)


def saved(folder: Path, spec: EncoderConfig, contract: InputContract = CONTRACT) -> Path:
    path = folder / "encoder.safetensors"
    encoder = build_encoder(spec, contract, seed=0)
    save_encoder(path, encoder, trained_on={"fingerprint": "0", "images": 1}, config={"seed": 0})
    return path


def external() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))


def test_a_reference_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    large = CONTRACT.model_copy(update={"height": 16})
    path = saved(tmp_path, ConvEncoderConfig(), large)
    words = r"^objective\.reference: found .*encoder\.safetensors.* 1x16x8 .* 1x8x8.*or null$"
    with pytest.raises(InputError, match=words):
        reference_encoder(str(path), CONTRACT)
    with pytest.raises(InputError, match=r"^objective\.reference: .*absent does not exist"):
        reference_encoder(str(tmp_path / "absent"), CONTRACT)
    path = saved(tmp_path, ExternalEncoderConfig(module=f"{__name__}:external"))
    with pytest.raises(InputError, match=r"^objective\.reference: .*:external; give an encoder of"):
        reference_encoder(str(path), CONTRACT)


# ---------------------------------------------------------------- samples


def test_digits_rank_as_they_look(measure: QualityMeasure) -> None:
    pixels = OTHERS.float() / 255
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0))
    blurred = F.avg_pool2d(pixels, 3, 1, padding=1)
    other = measure.measure(OTHERS)
    slightly = measure.measure(pixels.lerp(blurred, 0.3))
    worse = {
        "blurred": measure.measure(blurred),
        "noise": measure.measure(noise),
        "two": measure.measure(OTHERS[torch.isin(LABELS[900:], torch.tensor([1, 3]))]),
        "one": measure.measure(OTHERS[:1].expand(800, -1, -1, -1)),
    }
    assert other.relative_fid < 0.1 and abs(other.kid_on_our_encoder) < 1e-3
    assert other.coverage == pytest.approx(1, abs=0.05)
    assert other.diversity == pytest.approx(1, abs=0.05)
    assert other.relative_fid < slightly.relative_fid < worse["blurred"].relative_fid
    for quality in worse.values():
        assert quality.relative_fid > 0.3
        assert quality.kid_on_our_encoder > 10 * abs(other.kid_on_our_encoder)
        assert quality.coverage < 0.6
    assert worse["two"].relative_fid < worse["noise"].relative_fid
    assert worse["one"].diversity == pytest.approx(0, abs=1e-9)


def test_coverage_of_two_digits_is_about_their_share_of_the_clusters() -> None:
    """From the clusters that are mostly theirs, a fifth or so, to those that hold any of them."""
    clusters = Clusters(features(REAL))
    nearest = torch.cdist(features(IMAGES), clusters.centres).argmin(1)
    for pair in ([0, 1], [4, 7], [6, 9]):
        theirs = torch.isin(LABELS, torch.tensor(pair))
        shares = torch.stack([theirs[nearest == k].double().mean() for k in nearest.unique()])
        mostly, any_of_them = (shares > 0.5).double().mean(), (shares > 0).double().mean()
        found = clusters.coverage(features(OTHERS[theirs[900:]]))
        assert mostly <= found <= any_of_them


def test_a_measure_of_an_artifacts_features_leaves_random_draws_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, ConvEncoderConfig(widths=(8, 16)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = [
        QualityMeasure(reference_encoder(str(path), CONTRACT), REAL[:200]).measure(OTHERS[:100])
        for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1] and 0 < found[0].relative_fid < 0.5


def test_samples_that_are_not_finite_have_no_quality(measure: QualityMeasure) -> None:
    samples = OTHERS[:10].float() / 255
    samples[3, 0, 2, 2] = math.nan
    found = measure.measure(samples)
    assert isinstance(found, SampleQuality) and math.isnan(found.relative_fid)
    assert math.isnan(found.coverage) and math.isnan(found.diversity)
